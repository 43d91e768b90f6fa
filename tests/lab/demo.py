# SPDX-License-Identifier: LGPL-2.1-or-later
"""`make demo`: from the key to a guest, on this machine, touching nothing of its libvirt.

Every figure is measured as it is printed. What was started is gone at the end,
however it ends: the feeder dies with this process, the libvirtd and its guest
with the lab host's first process.
"""

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tests.lab.guest import LabGuest
from tests.lab.host import LabHost, wait_for, why_no_lab
from tests.lab.images import LabError, guest_image
from virtrng import status
from virtrng.errors import ExitCode
from virtrng.kernel import boottime_s
from virtrng.status import FeederStatus

VIRTRNG = ("/usr/bin/python3", "-m", "virtrng")
GUEST = "demo"
SEEDS = 2
INTERVAL_S = 2
FEED_S = 40
SECOND_S = 1.0
CURRENT = "cat /sys/class/misc/hw_random/rng_current"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a guest showed: the figures that the summary compares."""

    ready_s: float | None
    entropy_avail: str
    current: str
    hwrng: str
    first_reads: str


def main() -> int:
    """Show it all; return the exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    reason = why_no_lab()
    if reason:
        return _failed(reason)
    try:
        return _show()
    except KeyboardInterrupt:
        say("\ninterrupted: what was started is gone")
        return 130
    except LabError as error:
        return _failed(str(error))


def _show() -> int:
    say("From a hardware key to a guest. Nothing of this machine's own libvirt is touched.")
    image = guest_image()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="virtrng-demo-") as run_dir, _feeder(Path(run_dir)) as feeder:
        _key_to_pool(feeder)
        title("A guest without the device")
        with LabHost("demo") as host:
            guest = LabGuest.define(host, GUEST, image=image)
            point(f"a private libvirtd runs; guest '{GUEST}' is defined without any random number device")
            before = _before(guest)
            title("'virtrng enable' while it runs")
            plugged = _enable(guest)
            title("The same guest, stopped and started again")
            after = _started_again(guest)
            title("Summary")
            _summary(before, plugged, after, feeder.status())
    say(f"\n{time.monotonic() - started:.0f} s; everything that was started is gone.")
    return 0


# --- the key and the pool


class _Feeder:
    """`virtrng feed` as a process of its own, and what it says."""

    def __init__(self, process: subprocess.Popen[str], run_dir: Path, log: Path, *, simulated: bool) -> None:
        self.process = process
        self.simulated = simulated
        self._run_dir = run_dir
        self._log = log

    def said(self) -> list[str]:
        return self._log.read_text().splitlines()

    def status(self) -> FeederStatus:
        found = status.read(self._run_dir)
        if found is None:
            raise LabError("the feeder has written no status")
        return found

    def seeds(self) -> int:
        """Return how many seeds were given; raise LabError if the feeder has ended."""
        if self.process.poll() is not None:
            raise LabError("the feeder ended:\n" + "\n".join(self.said()))
        found = status.read(self._run_dir)
        return found.kernel.seeds if found else 0


@contextmanager
def _feeder(run_dir: Path) -> Iterator[_Feeder]:
    title("The key")
    listed = subprocess.run([*VIRTRNG, "keys"], capture_output=True, text=True)
    simulated = listed.returncode == ExitCode.NO_KEY
    if listed.returncode and not simulated:
        raise LabError(f"virtrng keys failed: {listed.stderr}")
    if simulated:
        point(
            "no supported key is plugged in: an Entropy Key is simulated, with real frames at its real pace"
        )
    else:
        say(listed.stdout)
    config = run_dir / "virtrng.toml"
    config.write_text(f'[feeder]\ninterval_s = {INTERVAL_S}\n[paths]\nrun_dir = "{run_dir}"\n')
    log = run_dir / "log"
    command = [
        *VIRTRNG,
        "--config-file",
        str(config),
        "feed",
        *(["--simulate", "entropykey"] if simulated else []),
    ]
    with log.open("w") as output:
        # It must not outlive us, however we end.
        process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], stderr=output, text=True)
    try:
        yield _Feeder(process, run_dir, log, simulated=simulated)
    finally:
        process.terminate()
        process.wait()


def _key_to_pool(feeder: _Feeder) -> None:
    try:
        wait_for(lambda: feeder.seeds() >= SEEDS, f"{SEEDS} seeds", timeout_s=FEED_S)
    except LabError as error:
        raise LabError(f"{error}\n" + "\n".join(feeder.said())) from error
    for line in feeder.said():
        point(line)
    now = feeder.status()
    (key,) = now.keys
    point(
        f"{key.bytes_read:,} bytes read, {key.blocks_tested} blocks of 2,500 bytes tested, "
        f"{key.blocks_tested - key.blocks_failed} passed"
    )
    pool = now.kernel
    point(
        f"{pool.seeds} seeds of 256 bits mixed into this machine's own /dev/random (RNDADDENTROPY), "
        f"made of {pool.bytes_passed:,} tested bytes, each in effect at once"
    )
    if feeder.simulated:
        point("the credit is 0 bits: what is simulated is never counted as entropy")
    else:
        point(f"{pool.seeded_bits:,} bits credited")
    age_s = now.seed_age_s(boottime_s())
    point(f"age of the last seed: {age_s:.1f} s" if age_s is not None else "no seed yet")


# --- the guest


def _before(guest: LabGuest) -> Seen:
    uptime_s = guest.boot()
    point(f"booted {uptime_s:.1f} s after power-on; Linux {guest.run('uname -r')}, emulated without KVM")
    point(
        "nothing hangs on this kernel: those before 5.6 block here, and that is where this project comes from"
    )
    return _look(guest)


def _enable(guest: LabGuest) -> Seen:
    mark = time.monotonic()
    said = subprocess.run(
        [*VIRTRNG, "-c", guest.host.uri, "enable", guest.name], capture_output=True, text=True
    )
    if said.returncode:
        raise LabError(f"virtrng enable failed: {said.stderr}")
    took_s = time.monotonic() - mark
    point(said.stdout.strip())
    wait_for(lambda: guest.run(CURRENT) == "virtio_rng.0", "the guest's virtio_rng.0", timeout_s=30)
    seen_s = time.monotonic() - mark
    point(f"the command took {took_s:.2f} s; the guest has virtio_rng.0 {seen_s - took_s:.2f} s after it")
    if seen_s - took_s > SECOND_S:
        say("  (more than the second that it takes on a machine with nothing else to do)")
    again = subprocess.run(
        [*VIRTRNG, "-c", guest.host.uri, "enable", guest.name], capture_output=True, text=True
    )
    point(f"a second run: {again.stdout.strip()}")
    return _look(guest)


def _started_again(guest: LabGuest) -> Seen:
    guest.host.virsh("shutdown", guest.name)
    guest.wait_state("shut off")
    uptime_s = guest.boot()
    point(f"shut down and started; booted {uptime_s:.1f} s after power-on")
    return _look(guest)


def _look(guest: LabGuest) -> Seen:
    """Ask the guest on its own console."""
    seen = Seen(
        current=guest.run(CURRENT),
        hwrng=_timed_dd(guest, "if=/dev/hwrng bs=64 count=128", 64 * 128),
        # Before anything is read from /dev/random, which would start the kernel's own gathering.
        entropy_avail=guest.run("cat /proc/sys/kernel/random/entropy_avail"),
        first_reads=_timed_dd(guest, "if=/dev/random count=1000", 512 * 1000),
        ready_s=guest.crng_ready_s(),
    )
    point(f"rng_current: {seen.current}; entropy_avail: {seen.entropy_avail} of 256 bits")
    limit = "" if seen.current == "none" else " (its limit is 4,096 bytes a second)"
    point(f"/dev/hwrng: {seen.hwrng}{limit}")
    point(f"dd if=/dev/random of=/dev/null count=1000: {seen.first_reads}")
    point(f"its generator was ready {_ready(seen)}")
    return seen


def _timed_dd(guest: LabGuest, arguments: str, size_bytes: int) -> str:
    """Run a dd in the guest, whose own clock counts it in hundredths of a second."""
    done = guest.try_run(f"time dd of=/dev/null {arguments}")
    real = re.search(r"real\s+(\d+)m ([0-9.]+)s", done.output)
    if done.status or real is None:
        return f"cannot be read: {done.output.splitlines()[0].rpartition(': ')[2]}"
    seconds = 60 * int(real[1]) + float(real[2])
    about = "about " if seconds < 0.1 else ""
    rate = f", {about}{size_bytes / seconds / 1000:,.0f} kB/s" if seconds else ""
    return f"{size_bytes:,} bytes in {seconds:.2f} s{rate}"


def _ready(seen: Seen) -> str:
    return f"{seen.ready_s:.2f} s after power-on" if seen.ready_s is not None else "at no time yet"


def _summary(before: Seen, plugged: Seen, after: Seen, feeder: FeederStatus) -> None:
    rows: list[tuple[str, Callable[[Seen], str]]] = [
        ("rng_current", lambda seen: seen.current),
        ("/dev/hwrng", lambda seen: seen.hwrng),
        ("first reads of /dev/random", lambda seen: seen.first_reads),
        ("generator ready", _ready),
    ]
    for name, text in rows:
        say(f"  {name}")
        for when, seen in (("without", before), ("plugged in", plugged), ("from start", after)):
            say(f"    {when:<12}{text(seen)}")
    age_s = feeder.seed_age_s(boottime_s())
    say(f"  The guest draws from this host's own generator; a key reseeds it, last {age_s or 0:.1f} s ago.")


# --- telling


def title(text: str) -> None:
    """Begin a part."""
    say(f"\n{text}")


def point(text: str) -> None:
    """Tell one fact."""
    say(f"  {text}")


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _failed(reason: str) -> int:
    sys.stderr.write(f"demo: {reason}\n")
    return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
