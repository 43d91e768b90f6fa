# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measure `virtrng enable` and `disable` over many defined guests, beside virsh and virt-xml on a few.

On a libvirtd of its own, whose files are in memory: libvirt waits for the disk each time it writes a
definition (virFileRewrite), once for the device and once for our metadata. Run by `make bench`, as root.
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

import libvirt

from tests.lab.host import LabHost
from tests.lab.images import unpacked
from virtrng import __version__

ROOT = Path(__file__).resolve().parents[1]
IN_MEMORY = Path("/dev/shm")
VIRTRNG = (sys.executable, "-m", "virtrng", "--config-file", os.devnull)
# virt-xml, and what of its dependencies a machine may not have: none is installed.
VIRT_XML_PACKAGES = (
    "virtinst", "python3-libxml2", "python3-gi", "python3-requests", "python3-urllib3", "python3-chardet",
    "python3-idna", "python3-certifi", "python3-six", "gir1.2-libosinfo-1.0", "gir1.2-freedesktop",
    "gir1.2-glib-2.0", "libosinfo-1.0-0", "libgirepository-1.0-1",
)  # fmt: skip
VIRT_XML = "from virtinst import virtxml; virtxml.runcli()"
ABOVE_ATTACH_MS, NO_OP_MS, ONE_MS = 1.0, 0.2, 150.0
ONE_RUNS = 11
ROUNDS = 3
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
class Figures:
    """Milliseconds per guest, the best of ROUNDS, the start-up of the process not counted."""

    guests: int
    attach_ms: float
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


def libvirts_own(domains: list[libvirt.virDomain]) -> float:
    """Return the ms of one attach call, without anything around it, and take the device away again."""
    config = libvirt.VIR_DOMAIN_AFFECT_CONFIG
    taken_ms = timed(lambda: [domain.attachDeviceFlags(DEVICE, config) for domain in domains])
    for domain in domains:
        domain.detachDeviceAlias("ua-bench0", config)
    return taken_ms / len(domains)


def measure(host: LabHost, count: int) -> tuple[Figures, float]:
    """Return the figures over `count` guests, and the ms of `virtrng enable ONE` as a process."""
    connection = libvirt.open(host.uri)
    domains = define(connection, count)
    first_ms = virtrng(host, "enable", "bench00000")
    start_up_ms = min(virtrng(host, "enable", "bench00000") for _ in range(ONE_RUNS))
    virtrng(host, "disable", "--forget", "bench00000")

    def each(*arguments: str) -> float:
        return (virtrng(host, *arguments) - start_up_ms) / count

    best: list[tuple[float, ...]] = []
    for _ in range(ROUNDS):
        best.append((
            libvirts_own(domains),
            each("enable", "--all"),
            each("enable", "--all"),
            each("disable", "--all"),
        ))  # fmt: skip
        virtrng(host, "disable", "--all", "--forget")
    figures = Figures(count, *(min(column) for column in zip(*best, strict=True)))
    for domain in domains:
        domain.undefine()
    connection.close()
    return figures, max(first_ms, start_up_ms)


def peers(host: LabHost) -> list[str]:
    """Return a row for each peer: the time of a run, and what a second one does."""
    connection = libvirt.open(host.uri)
    domains = define(connection, max(VIRSH_SAMPLE, VIRT_XML_SAMPLE))
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        device = Path(directory, "rng.xml")
        device.write_text(DEVICE.replace("<alias name='ua-bench0'/>", ""))
        environment = virt_xml_environment()
        ways: dict[str, tuple[int, Callable[[str], list[str]]]] = {
            "virsh": (
                VIRSH_SAMPLE,
                lambda name: ["virsh", "-c", host.uri, "attach-device", name, str(device), "--config"],
            ),
            "virt-xml": (
                VIRT_XML_SAMPLE,
                lambda name: [
                    sys.executable, "-c", VIRT_XML, "-c", host.uri, name, "--add-device",
                    "--rng", "/dev/random,rate.bytes=4096,rate.period=1000",
                ],
            ),
        }  # fmt: skip
        for name, (sample, line) in ways.items():
            taken_ms = [
                timed(lambda: run(line(domain.name()), environment))  # noqa: B023  called at once
                for domain in domains[:sample]
            ]
            run(line(domains[0].name()), environment)
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


def virt_xml_environment() -> dict[str, str]:
    """Return the environment in which virt-xml finds what was unpacked for it."""
    roots = [unpacked(package) for package in VIRT_XML_PACKAGES]
    python = [
        root / part for root in roots for part in ("usr/share/virt-manager", "usr/lib/python3/dist-packages")
    ]
    libraries = [library for root in roots for library in root.glob("usr/lib/*-linux-gnu")]
    return os.environ | {
        "PYTHONPATH": ":".join(str(path) for path in python if path.is_dir()),
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "GI_TYPELIB_PATH": ":".join(str(library / "girepository-1.0") for library in libraries),
    }


def report(figures: Figures) -> None:
    """Print a row of figures beside their limits."""
    above_ms = figures.enable_ms - figures.attach_ms
    above, no_op = _judged(above_ms, ABOVE_ATTACH_MS), _judged(figures.no_op_ms, NO_OP_MS)
    print(f"{figures.guests:5} guests, ms each: libvirt's own attach call {figures.attach_ms:.2f};", end="")
    print(f" enable {figures.enable_ms:.2f}, so {above_ms:.2f} above it{above};", end="")
    print(f" again, with nothing to do, {figures.no_op_ms:.3f}{no_op}; disable {figures.disable_ms:.2f}")


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
            figures, one_ms = measure(host, count)
            report(figures)
        print(f"'virtrng enable ONE' as a process: {one_ms:.0f} ms{_judged(one_ms, ONE_MS)}")
        for row in peers(host):
            print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
