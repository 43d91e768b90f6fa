# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measure the feeder on a simulated key at a real key's pace: what it costs, and its seeds beside its peers'.

The key is a process of its own, on a pseudo-terminal. All feeders get the same minute; strace counts their
ioctls on /dev/random, for ours those of the process that seeds. Needs root. Run by `make bench`.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.lab.images import unpacked
from virtrng import __version__, kernel, status
from virtrng.keys.entropykey.session import ENTROPY_BYTES
from virtrng.sim.entropykey import BLOCK_FRAMES

SECONDS = 60
SETTLE_S = 10  # peers seed a few times when they begin: only what comes later goes on
PATIENCE_S = 60.0
POLL_S = 0.002
NOISE_BYTES = 50_000_000  # more than a peer reads in its time

CPU_MAX_PERCENT = 1.0
SIZE_MAX_MB = 40.0
WAKE_UPS_MAX_PER_S = 5.0
KERNEL_RESEEDS_S = 60  # by itself: CRNG_RESEED_INTERVAL of drivers/char/random.c

PEERS = ("rng-tools5", "rng-tools-debian", "jitterentropy-rngd", "haveged")

T = TypeVar("T")


def wait_for(event: Callable[[], T | None], what: str) -> T:
    """Return what `event` does as soon as that is true; exit when a minute does not bring it."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not (happened := event()):
        if time.monotonic() > give_up_s:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(POLL_S)
    return happened


@contextmanager
def running(*command: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends; it and what it started die with the bench, however that ends."""
    bound = ["setpriv", "--pdeathsig=KILL", "unshare", "--pid", "--mount-proc", "--kill-child", *command]
    with subprocess.Popen(bound, stdin=subprocess.DEVNULL, **options) as process:
        try:
            yield process
        finally:
            process.kill()


# --- ours


@dataclass(frozen=True, slots=True)
class Ours:
    """`virtrng feed`: both of its processes."""

    reader: int
    injector: int
    run_dir: Path

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        # The clock of another process, clock_getcpuclockid(3): CPUCLOCK_SCHED is 2, in nanoseconds.
        return sum(time.clock_gettime(~pid << 3 | 2) for pid in (self.reader, self.injector))

    def switches(self) -> int:
        """Count how often one of their threads went to sleep."""
        return sum(
            int(_field(task / "status", "voluntary_ctxt_switches"))
            for pid in (self.reader, self.injector)
            for task in Path(f"/proc/{pid}/task").iterdir()
        )

    def blocks(self) -> float:
        """Count the blocks that the key sent. Exits where it does not feed."""
        found = status.read(self.run_dir)
        if found is None or [key.state for key in found.keys] != ["ok"]:
            raise SystemExit(f"the key does not feed: {found}")
        return found.keys[0].bytes_read / (BLOCK_FRAMES * ENTROPY_BYTES)

    def size_mb(self, kind: str) -> list[float]:
        """Return the Rss or Pss of each in MB."""
        pids = (self.reader, self.injector)
        return [int(_field(Path(f"/proc/{pid}/smaps_rollup"), kind).split()[0]) / 1000 for pid in pids]


def _field(file: Path, name: str) -> str:
    found = re.search(rf"^{name}:\s*(.*)$", file.read_text(), re.MULTILINE)
    if not found:
        raise SystemExit(f"{file} has no {name}")
    return found[1]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _virtrng(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "virtrng", *arguments)


@contextmanager
def fed_by_us(folder: Path) -> Iterator[tuple[Ours, float, float]]:
    """Start `virtrng feed`, then plug in a key; give also the seconds from then to its bytes and its seed."""
    link, memory, run_dir = folder / "key", folder / "keyring", folder / "run"
    (folder / "virtrng.toml").write_text(f'[paths]\nrun_dir = "{run_dir}"\n')
    config = ("--config-file", str(folder / "virtrng.toml"))
    feed = _virtrng(*config, "feed", "--key", f"entropykey:{link}", "--keyring", str(memory))
    key = _virtrng(
        "simulate", "entropykey", "--pty", str(link), "--long-term-key-file", str(memory), "--json"
    )
    with ExitStack() as stack:
        outer = stack.enter_context(running(*feed, stderr=subprocess.DEVNULL))
        wait_for(lambda: _status(run_dir), "feeder.json")
        (reader,) = _children(outer.pid)
        (injector,) = _children(reader)
        stack.enter_context(running(*key, stdout=subprocess.DEVNULL))
        wait_for(lambda: link.is_symlink() or None, "the key")
        plugged_s = kernel.boottime_s()
        session = wait_for(lambda: _in_session(run_dir), "a session") - plugged_s
        seeded = wait_for(lambda: _last_seed_s(run_dir), "a seed") - plugged_s
        yield Ours(reader, injector, run_dir), session, seeded


def _status(run_dir: Path) -> status.FeederStatus | None:
    return status.read(run_dir) if run_dir.exists() else None


def _in_session(run_dir: Path) -> float | None:
    found = _status(run_dir)
    return kernel.boottime_s() if found and found.keys and found.keys[0].bytes_read else None


def _last_seed_s(run_dir: Path) -> float | None:
    found = _status(run_dir)
    return found.kernel.last_seed_boottime_s if found else None


# --- all of them


@dataclass(frozen=True, slots=True)
class Fed:
    """What a feeder gave to the kernel in a minute."""

    seeds: int
    bytes: int
    reseeds: int

    @property
    def in_effect(self) -> int:
        """How many seeds took effect: at once if they are told to, else when the kernel reseeds by itself."""
        return self.reseeds or min(self.seeds, SECONDS // KERNEL_RESEEDS_S)


class Traced:
    """The ioctls of a feeder, as strace writes them down."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace
        self._from_byte = 0

    def begin(self) -> None:
        """Count from now on."""
        self._from_byte = self._trace.stat().st_size

    def fed(self) -> Fed:
        """Return what was given since then."""
        lines = self._trace.read_bytes()[self._from_byte :].decode(errors="replace").splitlines()
        added = [line for line in lines if "RNDADDENTROPY" in line and line.endswith("= 0")]
        sizes = [int(found[1]) for line in added if (found := re.search(r"buf_size=(\d+)", line))]
        return Fed(len(added), sum(sizes), sum("RNDRESEEDCRNG" in line for line in lines))


def _strace(trace: Path) -> list[str]:
    return ["strace", "-f", "-qq", "-e", "trace=ioctl", "-e", "signal=none", "-o", str(trace)]


def peers(noise: Path) -> dict[str, list[str]]:
    """Return how to run each: unpacked, not installed, for their packages start daemons.

    Those that want a device get a file of noise in its place; all else is as the package has it.
    """
    (havege,) = unpacked("libhavege2").glob("usr/lib/*/libhavege.so.2")
    rngd5, rngd, jitter, haveged = (unpacked(package) for package in PEERS)
    return {
        rngd5.name: [
            f"{rngd5}/usr/sbin/rngd",
            "-f",
            "-d",
            "1",
            "-n",
            "1",
            "-r",
            f"{noise}",
            "-p",
            f"{noise}.5",
        ],
        rngd.name: [f"{rngd}/usr/sbin/rngd", "-f", "-r", f"{noise}", "-p", f"{noise}.debian"],
        jitter.name: [f"{jitter}/usr/sbin/jitterentropy-rngd", "-v"],
        haveged.name: [
            *("env", f"LD_LIBRARY_PATH={havege.parent}"),
            *(f"{haveged}/usr/sbin/haveged", "-F", "-w", "1024"),
        ],
    }


@contextmanager
def traced_peers(folder: Path) -> Iterator[dict[str, Traced]]:
    """Start all peers, each under strace, and wait until each has been written of."""
    noise = folder / "noise"
    with noise.open("wb") as file:
        file.write(os.urandom(NOISE_BYTES))
    found = {}
    with ExitStack() as stack:
        for number, (name, command) in enumerate(peers(noise).items()):
            trace = folder / f"trace{number}"
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            stack.enter_context(running(*_strace(trace), *command, **quiet))
            wait_for(lambda trace=trace: trace.exists() or None, name)  # type: ignore[misc]
            found[name] = Traced(trace)
        yield found


@contextmanager
def attached(pid: int, trace: Path) -> Iterator[Traced]:
    """Trace a process that runs."""
    with subprocess.Popen([*_strace(trace), "-p", str(pid)], stdin=subprocess.DEVNULL) as tracer:
        try:
            wait_for(lambda: _field(Path(f"/proc/{pid}/status"), "TracerPid") != "0" or None, "strace")
            yield Traced(trace)
        finally:
            tracer.terminate()


@dataclass(frozen=True, slots=True)
class Found:
    """All figures of one run; sizes are those of the reader and of the injector."""

    session_s: float
    seeded_s: float
    cpu_percent: float
    switches_per_s: float
    blocks_per_s: float
    pss_mb: list[float]
    rss_mb: list[float]
    fed: dict[str, Fed]


def measure(folder: Path) -> Found:
    """Return the figures of a minute."""
    with traced_peers(folder) as others, fed_by_us(folder) as (ours, session_s, seeded_s):
        with attached(ours.injector, folder / "ours") as trace:
            time.sleep(SETTLE_S)
            contestants = {f"virtrng {__version__}": trace, **others}
            for one in contestants.values():
                one.begin()
            cpu_s, switches, blocks = ours.cpu_s(), ours.switches(), ours.blocks()
            begun_s = time.monotonic()
            time.sleep(SECONDS)
            taken_s = time.monotonic() - begun_s
            cpu_s, switches, blocks = ours.cpu_s() - cpu_s, ours.switches() - switches, ours.blocks() - blocks
            fed = {name: one.fed() for name, one in contestants.items()}
        pss_mb, rss_mb = ours.size_mb("Pss"), ours.size_mb("Rss")
    cpu_percent, switches_per_s = 100 * cpu_s / taken_s, switches / taken_s
    return Found(session_s, seeded_s, cpu_percent, switches_per_s, blocks / taken_s, pss_mb, rss_mb, fed)


def report(found: Found) -> bool:
    """Print a table; return whether every goal is reached."""
    # A block counts as one wake-up, the least that its data cost: a terminal wakes for each 4 kB.
    beyond = found.switches_per_s - found.blocks_per_s
    rows = [
        ("CPU, percent of a core", found.cpu_percent, CPU_MAX_PERCENT),
        ("resident (PSS), MB", sum(found.pss_mb), SIZE_MAX_MB),
        ("resident (RSS), MB", sum(found.rss_mb), SIZE_MAX_MB),
        ("wake-ups a second beyond the key's data", beyond, WAKE_UPS_MAX_PER_S),
    ]
    print(f"virtrng {__version__}, Python {platform.python_version()}, Linux {platform.release()}")
    print(f"{SECONDS} s of a simulated key at its real pace, 4 kB/s, on a pseudo-terminal; both processes:")
    for name, value, goal in rows:
        print(f"  {name:42} {value:8.2f}   goal: at most {goal:g}{'' if value <= goal else '   MISSED'}")
    pairs = {
        "PSS of the reader, of the injector, MB": found.pss_mb,
        "RSS of the reader, of the injector, MB": found.rss_mb,
        "all wake-ups, blocks of the key, a second": (found.switches_per_s, found.blocks_per_s),
        "from plug to first bytes, to first seed, s": (found.session_s, found.seeded_s),
    }
    for name, (one, other) in pairs.items():
        print(f"  {name:42} {one:8.2f} {other:8.2f}")
    print(
        f"ioctls on /dev/random in {SECONDS} s, after the first {SETTLE_S} s; a simulated key gets no credit"
    )
    print(f"  {'':34} {'seeds':>7} {'bytes':>7} {'reseeds':>7} {'in effect':>9}")
    for name, fed in found.fed.items():
        print(f"  {name:34} {fed.seeds:7} {fed.bytes:7} {fed.reseeds:7} {fed.in_effect:9}")
    return all(value <= goal for _, value, goal in rows)


def main(argv: list[str]) -> int:
    """Measure for a minute and print it; exit 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.parse_args(argv)
    if os.geteuid() != 0:
        raise SystemExit("only root may seed the kernel's pool")
    with tempfile.TemporaryDirectory() as folder:
        return int(not report(measure(Path(folder))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
