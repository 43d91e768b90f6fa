# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measure what a hook adds: to one call of it, and to the start and the end of a guest under a real libvirtd.

Ours stands beside no hook, beside one that only ends, and beside one in Python that imports libvirt, as
many do. Every round has all of them, so that what else the machine does falls on each. Needs root. Run by
`make bench`.
"""

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import libvirt

from tests.lab.guest import LabGuest
from tests.lab.host import LabHost
from tests.lab.images import guest_image
from tests.lab.product import OURS, TREE, live
from virtrng import __version__, config, render
from virtrng.domain import hookfile

CALLS = 60
STARTS = 20
OVER_EXIT_MAX_MS = 1.0
PREPARE_MAX_MS = 40.0
ARRIVAL_MAX_MS = 50.0

EXIT_0 = "#!/bin/sh\nexit 0\n"
IMPORTS_LIBVIRT = "#!/usr/bin/python3\nimport libvirt\n"
REFUSE = "[domains]\nrequire = 'refuse'\n"
GUEST = "bench"
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}  # virCommandAddEnvPassCommon
NOTHING = "#!/bin/sh, exit 0"


def installed(base: Path, name: str, settings: str) -> Path:
    """Return our hook with that configuration, its marks below `base`."""
    place = base / name
    place.mkdir()
    config_file = place / "virtrng.toml"
    config_file.write_text(f"{settings}\n[paths]\nrun_dir = '{place}/run'\n")
    content = hookfile.rendered(TREE / "hooks" / "qemu", TREE, config_file)
    hookfile.install(place, content)
    return hookfile.destination(place)


def script(base: Path, name: str, text: str) -> Path:
    """Return another hook."""
    file = base / name
    file.write_text(text)
    file.chmod(0o755)
    return file


# --- one call


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a hook, and what of its time is at most to be: beyond the least hook's, or in all."""

    name: str
    hook: Path
    operation: str
    content: Path
    over_ms: float | None = None
    goal_ms: float | None = None

    def once(self) -> tuple[float, float]:
        """Make it, and return how long it took, and how long a processor was at it, in ms."""
        argv = [str(self.hook), GUEST, self.operation, "begin", "-"]
        files = [
            (os.POSIX_SPAWN_OPEN, 0, str(self.content), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ]
        before = time.perf_counter()
        pid = os.posix_spawn(argv[0], argv, ENVIRONMENT, file_actions=files)
        _, status, usage = os.wait4(pid, 0)
        took_ms = (time.perf_counter() - before) * 1000
        if status:
            raise SystemExit(f"{' '.join(argv)} ended with {status}")
        return took_ms, (usage.ru_utime + usage.ru_stime) * 1000


def calls(base: Path, definition: str) -> list[Call]:
    """Return what is measured, with the XML of a guest that runs."""
    here, elsewhere = base / "here.xml", base / "elsewhere.xml"
    here.write_text(definition)
    elsewhere.write_text(definition.replace("bytes='4096'", "bytes='512'"))
    sample = installed(base, "sample", render.render("virtrng.toml", config.Config()))
    refuses = installed(base, "refuses", REFUSE)
    python = script(base, "python", IMPORTS_LIBVIRT)
    return [
        Call(NOTHING, script(base, "exit-0", EXIT_0), "prepare", here),
        Call("started, stopped and the like", refuses, "started", here, over_ms=OVER_EXIT_MAX_MS),
        Call("prepare, nothing required", sample, "prepare", here, over_ms=OVER_EXIT_MAX_MS),
        Call("prepare, a policy to apply", refuses, "prepare", here, goal_ms=PREPARE_MAX_MS),
        Call("restore, nothing to change", refuses, "restore", here, goal_ms=ARRIVAL_MAX_MS),
        Call("restore, retargeted", refuses, "restore", elsewhere, goal_ms=ARRIVAL_MAX_MS),
        Call("Python that imports libvirt", python, "prepare", here),
    ]


def report_calls(found: dict[Call, list[tuple[float, float]]]) -> bool:
    """Print it; return whether the goals are met."""
    medians = {call: statistics.median(took for took, _ in times) for call, times in found.items()}
    (least,) = (median for call, median in medians.items() if call.name == NOTHING)
    print(f"{f'one call of a hook, ms ({CALLS} each, in turn)':42}  median     95 %      CPU")
    met = True
    for call, times in found.items():
        at_most = call.goal_ms if call.over_ms is None else least + call.over_ms
        said = "" if at_most is None else f"   goal: at most {at_most:.1f}"
        if at_most is not None and medians[call] > at_most:
            met, said = False, f"{said}   MISSED"
        cpu_ms = statistics.median(cpu for _, cpu in times)
        high = p95([took for took, _ in times])
        print(f"  {call.name:40} {medians[call]:8.2f} {high:8.2f} {cpu_ms:8.2f}{said}")
    return met


# --- a guest's start and end


def report_starts(host: LabHost, hooks: dict[str, Path | None], rounds: int) -> None:
    """Measure and print what each hook adds to what `virsh start` and `virsh destroy` ask of libvirtd."""
    start: dict[str, list[float]] = {name: [] for name in hooks}
    end: dict[str, list[float]] = {name: [] for name in hooks}
    connection = libvirt.open(host.uri)
    try:
        guest = connection.lookupByName(GUEST)
        for _ in range(rounds):
            for name, hook in hooks.items():
                put(host, hook)
                start[name].append(timed(lambda: guest.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)))
                end[name].append(timed(guest.destroy))
    finally:
        connection.close()
    columns = "".join(f"{title:>9}" for title in ("start", "95 %", "added", "destroy", "95 %", "added"))
    print(f"{f'a guest under libvirtd, ms ({rounds} each, in turn)':42}{columns}")
    none = [statistics.median(times[next(iter(hooks))]) for times in (start, end)]
    for name in hooks:
        figures = ""
        for times, without in zip((start[name], end[name]), none, strict=True):
            median = statistics.median(times)
            figures += f" {median:8.1f} {p95(times):8.1f} {median - without:8.1f}"
        print(f"  {name:40}{figures}")


def put(host: LabHost, hook: Path | None) -> None:
    """Have libvirtd call that hook and no other, or none at all."""
    directory = host.hooks_dir / "qemu.d"
    shutil.rmtree(directory, ignore_errors=True)
    if hook:
        directory.mkdir()
        shutil.copy(hook, directory / "hook")
    host.reload_daemon()


def timed(act: Callable[[], object]) -> float:
    """Return how long it took, in ms."""
    before = time.perf_counter()
    act()
    return (time.perf_counter() - before) * 1000


def p95(times: list[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(times, n=20, method="inclusive")[-1]


def measure(base: Path, rounds: int) -> bool:
    """Measure and print all of it; return whether the goals are met."""
    with LabHost("bench") as host:
        guest = LabGuest.define(host, GUEST, image=guest_image(), extra_devices=OURS)
        host.virsh("start", "--paused", GUEST)
        measured = calls(base, live(guest))
        host.virsh("destroy", GUEST)
        found: dict[Call, list[tuple[float, float]]] = {call: [] for call in measured}
        for _ in range(CALLS):
            for call in measured:
                found[call].append(call.once())
        met = report_calls(found)
        hooks = {call.name: call.hook for call in measured if call.operation == "prepare"}
        report_starts(host, {"no hook": None, **hooks}, rounds)
        guest.remove()
    return met


def main(argv: list[str]) -> int:
    """Measure for a minute or two and print it; exit 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=STARTS, help="starts with each hook")
    rounds = parser.parse_args(argv).rounds
    if os.geteuid() != 0:
        raise SystemExit("only root may run a libvirtd for its own")
    print(f"virtrng {__version__}, Python {platform.python_version()}, Linux {platform.release()}")
    with tempfile.TemporaryDirectory() as folder:
        return int(not measure(Path(folder), rounds))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
