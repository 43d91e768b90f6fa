# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng feed --wait BYTES`: a gate, for what must not begin before a key has fed the pool."""

import argparse
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from virtrng import kernel, status
from virtrng.cli import output
from virtrng.config import Config
from virtrng.errors import BadStatus, ExitCode, FedTooLittle, FeederRunning
from virtrng.status import FeederStatus, KernelStatus

# A gate that feeds has nothing else to do than to feed soon.
INTERVAL_S = 1
LOOK_S = 0.5

Feed = Callable[[argparse.Namespace, Config, Callable[[KernelStatus], bool]], KernelStatus]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--wait",
        metavar="BYTES",
        type=_count,
        help="end when so many tested bytes were fed; beside a running feeder no key is opened, and what "
        "that one feeds is counted",
    )
    parser.add_argument("--timeout", metavar="S", type=_count, help="with --wait: fail after so many seconds")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number, 1 or more")
    return int(text)


@dataclass
class Gate:
    """How much was fed since it was made; seconds are CLOCK_BOOTTIME's."""

    wanted_bytes: int
    timeout_s: float
    clock: Callable[[], float]
    fed_bytes: int = 0
    began_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.began_s = self.clock()

    def over(self, fed_bytes: int) -> bool:
        """Tell how much was fed; return whether it was enough, or has taken too long."""
        self.fed_bytes = fed_bytes
        output.progress(f"fed {fed_bytes} of {self.wanted_bytes} bytes")
        return fed_bytes >= self.wanted_bytes or self.left_s <= 0

    @property
    def waited_s(self) -> float:
        """For how long it has been waiting."""
        return self.clock() - self.began_s

    @property
    def left_s(self) -> float:
        """How long it may wait on."""
        return max(0.0, self.timeout_s - self.waited_s)


class Passed:
    """Counts what feeders say that they fed since it was made; one that is started anew counts anew."""

    def __init__(self, now: FeederStatus | None) -> None:
        self._who = _who(now)
        self._seen_bytes = now.kernel.bytes_passed if now else 0
        self.total_bytes = 0

    def tell(self, now: FeederStatus | None) -> None:
        """Take into account what feeder.json says now."""
        if now is None:
            return
        if _who(now) != self._who:
            self._who, self._seen_bytes = _who(now), 0
        self.total_bytes += max(0, now.kernel.bytes_passed - self._seen_bytes)
        self._seen_bytes = now.kernel.bytes_passed


def _who(now: FeederStatus | None) -> tuple[int, float | None] | None:
    return (now.pid, now.started_boottime_s) if now else None


def run(arguments: argparse.Namespace, settings: Config, feed: Feed) -> int:
    """Feed, or watch the feeder that runs, until it is enough. Raises FedTooLittle."""
    timeout_s = math.inf if arguments.timeout is None else arguments.timeout
    gate = Gate(arguments.wait, timeout_s, kernel.boottime_s)
    run_dir = settings.paths.run_dir
    quick = replace(settings, feeder=replace(settings.feeder, interval_s=INTERVAL_S))
    try:
        if status.holder(run_dir, status.read(run_dir)):
            watch(run_dir, gate)
        else:
            _keep_lines_apart()
            try:
                given = feed(arguments, quick, lambda kernel: gate.over(kernel.bytes_passed))
                gate.over(given.bytes_passed)
            except FeederRunning:  # it was faster
                watch(run_dir, gate)
    finally:
        output.progress_done()
    if gate.fed_bytes < gate.wanted_bytes:
        raise FedTooLittle(gate.fed_bytes, gate.wanted_bytes, int(gate.waited_s))
    return ExitCode.DONE


def _keep_lines_apart() -> None:
    """Have each line that is logged take the place of the progress shown."""

    def clear(_record: logging.LogRecord) -> bool:
        output.progress_done()
        return True

    for handler in logging.getLogger().handlers:
        handler.addFilter(clear)


def watch(run_dir: Path, gate: Gate, sleep: Callable[[float], object] = time.sleep) -> None:
    """Count what the running feeder feeds, and the one that takes its place."""
    passed = Passed(_read(run_dir))
    while not gate.over(passed.total_bytes):
        sleep(min(LOOK_S, gate.left_s))
        passed.tell(_read(run_dir))


def _read(run_dir: Path) -> FeederStatus | None:
    try:
        return status.read(run_dir)
    except BadStatus:  # of a feeder of another version, which has been or will be replaced
        return None
