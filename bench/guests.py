# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measure `virtrng enable` and `disable` over many defined guests, beside virsh and virt-xml on a few.

On a libvirtd of its own, whose files are in memory: libvirt waits for the disk each time it writes a
definition (virFileRewrite), once for the device and once for our metadata. Run by `make bench`, as root.

`enable --all` is compared with libvirt's bare attach call twice: made for one guest after the other, as a
client does that knows nothing better, and made by as many threads as `enable` has.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import libvirt

from tests.lab.host import LabHost
from tests.lab.virtinst import environment, virt_xml
from virtrng import __version__
from virtrng.cli.several import AT_ONCE

ROOT = Path(__file__).resolve().parents[1]
IN_MEMORY = Path("/dev/shm")
VIRTRNG = (sys.executable, "-m", "virtrng", "--config-file", os.devnull)
ABOVE_ATTACH_MS, NO_OP_MS, ONE_MS = 1.0, 0.2, 150.0
ONE_RUNS = 11
ROUNDS = 5
START_UPS_A_ROUND = 3
VIRSH_SAMPLE, VIRT_XML_SAMPLE = 10, 3
GUEST = """\
<domain type='qemu'>
  <name>bench{number:05}</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='{machine}'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><source file='/nonexistent'/><target dev='vda' bus='virtio'/></disk>
    <interface type='user'><model type='virtio'/></interface>
    <console type='pty'/>
  </devices>
</domain>
"""
DEVICE = """\
<rng model='virtio'>
  <rate bytes='4096' period='1000'/>
  <backend model='random'>/dev/random</backend>
  <alias name='ua-bench0'/>
</rng>
"""


@dataclass(frozen=True, slots=True)
class Round:
    """Milliseconds per guest, the start-up of the process not counted."""

    attach_ms: float
    attach_at_once_ms: float
    enable_ms: float
    no_op_ms: float
    disable_ms: float


def timed(act: Callable[[], object]) -> float:
    """Return how many ms it takes."""
    begun_s = time.perf_counter()
    act()
    return (time.perf_counter() - begun_s) * 1000


def virtrng(host: LabHost, *arguments: str) -> float:
    """Run virtrng to its end, and return how many ms that took."""
    line = [*VIRTRNG, "-c", host.uri, *arguments]
    return timed(lambda: subprocess.run(line, cwd=ROOT, check=True, stdout=subprocess.DEVNULL))


def define(connection: libvirt.virConnect, count: int) -> list[libvirt.virDomain]:
    """Define guests as virt-install would, on both machines of x86."""
    machines = ("q35", "pc")
    return [
        connection.defineXML(GUEST.format(number=number, machine=machines[number % 2]))
        for number in range(count)
    ]


def libvirts_own(domains: list[libvirt.virDomain], threads: int) -> float:
    """Return the ms a guest of bare attach calls by so many threads, and take the devices away again."""
    config = libvirt.VIR_DOMAIN_AFFECT_CONFIG

    def attach(some: list[libvirt.virDomain]) -> None:
        for domain in some:
            domain.attachDeviceFlags(DEVICE, config)

    working = [Thread(target=attach, args=(domains[first::threads],)) for first in range(threads)]

    def work() -> None:
        for thread in working:
            thread.start()
        for thread in working:
            thread.join()

    taken_ms = timed(work)
    for domain in domains:
        domain.detachDeviceAlias("ua-bench0", config)
    return taken_ms / len(domains)


def measure(host: LabHost, count: int) -> tuple[list[Round], float]:
    """Return the rounds over `count` guests, and the ms of `virtrng enable ONE` as a process."""
    connection = libvirt.open(host.uri)
    domains = define(connection, count)
    one = domains[0].name()
    ones_ms = [virtrng(host, "enable", one) for _ in range(ONE_RUNS)]
    virtrng(host, "disable", "--forget", one)
    rounds = [one_round(host, domains) for _ in range(ROUNDS)]
    for domain in domains:
        domain.undefine()
    connection.close()
    return rounds, max(ones_ms[0], statistics.median(ones_ms))


def one_round(host: LabHost, domains: list[libvirt.virDomain]) -> Round:
    """Measure all of it close together, since a machine is not equally fast at all times."""
    one = domains[0].name()
    virtrng(host, "enable", one)
    start_up_ms = statistics.median(virtrng(host, "enable", one) for _ in range(START_UPS_A_ROUND))
    virtrng(host, "disable", "--forget", one)

    def each(*arguments: str) -> float:
        return (virtrng(host, *arguments) - start_up_ms) / len(domains)

    measured = Round(
        attach_ms=libvirts_own(domains, 1),
        attach_at_once_ms=libvirts_own(domains, AT_ONCE),
        enable_ms=each("enable", "--all"),
        no_op_ms=each("enable", "--all"),
        disable_ms=each("disable", "--all"),
    )
    virtrng(host, "disable", "--all", "--forget")
    return measured


def peers(host: LabHost) -> list[str]:
    """Return a row for each peer: the time of a run, and what a second one does."""
    connection = libvirt.open(host.uri)
    domains = define(connection, max(VIRSH_SAMPLE, VIRT_XML_SAMPLE))
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        device = Path(directory, "rng.xml")
        device.write_text(DEVICE.replace("<alias name='ua-bench0'/>", ""))
        found_in = environment()
        ways: dict[str, tuple[int, Callable[[str], list[str]]]] = {
            "virsh": (
                VIRSH_SAMPLE,
                lambda name: ["virsh", "-c", host.uri, "attach-device", name, str(device), "--config"],
            ),
            "virt-xml": (
                VIRT_XML_SAMPLE,
                lambda name: virt_xml(
                    host, name, "--add-device", "--rng", "/dev/random,rate.bytes=4096,rate.period=1000"
                ),
            ),
        }
        for name, (sample, line) in ways.items():
            taken_ms = [
                timed(lambda: run(line(domain.name()), found_in))  # noqa: B023  called at once
                for domain in domains[:sample]
            ]
            run(line(domains[0].name()), found_in)
            count = domains[0].XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).count("<rng ")
            again = f"a second run makes {count} devices"
            rows.append(f"{name:10} {statistics.median(taken_ms):8.1f} ms a guest, {sample} of them; {again}")
            for domain in domains:
                domain.undefine()
            domains = define(connection, len(domains))
    connection.close()
    return rows


def run(line: list[str], environment: dict[str, str]) -> None:
    """Run a peer to its end."""
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{line[0]}: exit status {done.returncode}\n{done.stderr}")


def report(count: int, rounds: list[Round]) -> None:
    """Print the figures over so many guests beside their limits."""

    def median(of: Callable[[Round], float]) -> float:
        return statistics.median(map(of, rounds))

    def beside(what: str, attach: Callable[[Round], float]) -> str:
        above_ms = median(lambda one: one.enable_ms - attach(one))
        judged = _judged(above_ms, ABOVE_ATTACH_MS) if attach is one_by_one else ""
        times = median(lambda one: one.enable_ms / attach(one))
        took = f"enable takes {above_ms:+.2f}{judged}, {times:.1f} times that"
        return f"    {what:41} {median(attach):5.2f}: {took}"

    def one_by_one(one: Round) -> float:
        return one.attach_ms

    enable_ms, no_op_ms = median(lambda one: one.enable_ms), median(lambda one: one.no_op_ms)
    print(f"{count} guests, ms a guest, medians of {len(rounds)} rounds:")
    print(f"    enable --all {enable_ms:.2f}, so a thousand in {enable_ms:.1f} s; ", end="")
    print(f"again, with nothing to do, {no_op_ms:.3f}{_judged(no_op_ms, NO_OP_MS)}; ", end="")
    print(f"disable --all {median(lambda one: one.disable_ms):.2f}")
    print(beside("libvirt's bare attach call, one by one", one_by_one))
    print(beside(f"the same by {AT_ONCE} threads, as enable does", lambda one: one.attach_at_once_ms))


def _judged(taken_ms: float, limit_ms: float) -> str:
    return f" (limit {limit_ms:g}{': EXCEEDED' if taken_ms > limit_ms else ''})"


def main(argv: list[str]) -> int:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--guests", type=int, nargs="+", default=[200, 2000], help="default: 200 2000")
    arguments = parser.parse_args(argv)
    if IN_MEMORY.is_dir():
        tempfile.tempdir = str(IN_MEMORY)
    with LabHost("bench") as host:
        load = f"this machine at a load of {os.getloadavg()[0]:.1f}"
        print(f"virtrng {__version__}, libvirt {host.virsh('--version')}, definitions only; {load}")
        for count in arguments.guests:
            rounds, one_ms = measure(host, count)
            report(count, rounds)
        print(f"'virtrng enable ONE' as a process: {one_ms:.0f} ms{_judged(one_ms, ONE_MS)}")
        for row in peers(host):
            print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
