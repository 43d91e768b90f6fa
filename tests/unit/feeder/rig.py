# SPDX-License-Identifier: LGPL-2.1-or-later
"""A feeder among stand-ins that do what they are told: keys, a clock, a bell, an injector that records.

There are no threads. Whenever the feeder waits, time passes: the readers do their
next piece when it is due, and what the test has planned happens.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.unit.feeder.blocks import clean
from virtrng import status
from virtrng.config import FeederSettings
from virtrng.entropy.conditioner import Seed
from virtrng.errors import InjectorLost, KernelRefused, KeyTrouble, NoKey
from virtrng.feeder.daemon import Feeder
from virtrng.feeder.life import KeyLife
from virtrng.feeder.reader import READ_TIMEOUT_MS, Reader
from virtrng.feeder.source import Look, Source
from virtrng.keys.base import Noise
from virtrng.status import FeederStatus, KernelStatus

# What a key does at one read: noise, none of it, an exception, or something that is called first.
Step = bytes | None | Exception | Callable[[], object]
READ_S = 1.0
LONGEST_S = 5000.0


@cache
def start_up_blocks() -> int:
    """Return how many clean blocks a key gives before the first that is used."""
    life = KeyLife("k", 0.5, lambda: 0.0)
    life.begin()
    number = 0
    while not life.take(Noise("k", clean(number), 10_000)):
        number += 1
    return number


def used(number: int) -> list[bytes]:
    """Return so many blocks that follow those of the start-up."""
    return [clean(start_up_blocks() + one) for one in range(number)]


def admitted(*steps: Step) -> list[Step]:
    """Return what a key does that passes its start-up tests first."""
    return [*(clean(one) for one in range(start_up_blocks())), *steps]


class Clock:
    """Seconds that pass only when somebody lets them."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass
class Telemetry:
    figures: dict[str, float] = field(default_factory=dict)
    verdict: str | None = None


@dataclass
class Counters:
    frames_bad: int = 2
    sessions: int = 1
    telemetry: Telemetry = field(default_factory=Telemetry)


class ScriptedKey:
    """A key that does one step at each read, a second apart; after the last, nothing more comes of it."""

    def __init__(
        self, rig: "Rig", steps: Iterable[Step], serial: str = "x", *, simulated: bool, claimed_bits: int
    ) -> None:
        self.rig = rig
        self.serial = serial
        self.claimed_bits = claimed_bits
        self.steps = iter(steps)
        self.simulated = simulated
        self.counters = Counters()
        self.open_trouble: Exception | None = None
        self.start_trouble: Exception | None = None
        self.opened = self.closed = 0
        self.ends = False
        self.hangs = False

    def open(self) -> "ScriptedKey":
        self.opened += 1
        if self.open_trouble:
            raise self.open_trouble
        return self

    def start(self) -> None:
        if self.start_trouble:
            raise self.start_trouble

    def read(self, timeout_ms: int) -> Noise | None:
        assert timeout_ms == READ_TIMEOUT_MS
        self.rig.bell.busy_s = READ_S
        step = next(self.steps, self)
        if step is self:
            if self.ends:
                self.rig.bell.stop()
            return None
        if isinstance(step, Exception):
            raise step
        if callable(step):
            step()
            return None
        assert step is None or isinstance(step, bytes)
        return None if step is None else Noise("k", step, self.claimed_bits)

    def close(self) -> None:
        self.closed += 1


class Bell:
    """Waiting takes no time but the clock's."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.stopping = False
        self.rung = False
        self.busy_s = 0.0  # how long the piece takes that is being done
        self.waits = 0
        self.readers: list[tuple[float, Reader, Iterator[None]]] = []
        self.plans: list[tuple[float, Callable[[], object]]] = []

    def ring(self) -> None:
        self.rung = True

    def stop(self) -> None:
        self.stopping = self.rung = True

    def spawn(self, reader: Reader) -> None:
        pieces = reader.pieces()
        reader.join = lambda _timeout_s: self.join(reader, pieces)
        self.readers.append((self.clock(), reader, pieces))

    def join(self, reader: Reader, pieces: Iterator[None]) -> None:
        for _ in pieces if not reader.ended else ():
            assert reader.stopping

    def wait(self, timeout_s: float) -> None:
        self.waits += 1
        assert self.clock() < 1000.0 + LONGEST_S, "nothing ends it"
        until_s = self.clock() + timeout_s
        while not self.rung:
            times_s = [one[0] for one in self.readers] + [one[0] for one in self.plans]
            due_s = min(times_s, default=until_s)
            if due_s > until_s:
                break
            self.clock.now_s = max(self.clock.now_s, due_s)
            if not self._do_what_is_due():
                break
        if not self.rung:
            self.clock.now_s = max(self.clock.now_s, until_s)
        self.rung = False

    def _do_what_is_due(self) -> bool:
        now_s = self.clock()
        for plan in sorted(self.plans, key=lambda plan: plan[0]):
            if plan[0] <= now_s:
                self.plans.remove(plan)
                plan[1]()
                return True
        for number, (at, reader, pieces) in enumerate(self.readers):
            if at <= now_s:
                self.busy_s = 0.0
                self.readers.pop(number)
                if next(pieces, self) is not self:
                    self.readers.append((max(now_s, self.clock()) + self.busy_s, reader, pieces))
                return True
        return False


class Recorder:
    """In the place of the injector: keeps what it was given, and when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seeds: list[tuple[float, Seed, int]] = []
        self.refuses = False
        self.lost = False
        self.checks: list[float] = []

    def inject(self, seed: Seed, *, made_of_bytes: int, now: float) -> None:
        if self.refuses:
            raise KernelRefused("RNDADDENTROPY", "no CAP_SYS_ADMIN")
        self.seeds.append((self.clock(), seed, made_of_bytes))

    def check(self) -> None:
        self.checks.append(self.clock())
        if self.lost:
            raise InjectorLost("was killed by signal 9")

    @property
    def status(self) -> KernelStatus:
        last_s = self.seeds[-1][0] if self.seeds else None
        bits = sum(seed.entropy_bits for _, seed, _ in self.seeds)
        return KernelStatus(len(self.seeds), bits, sum(one[2] for one in self.seeds), last_s, last_s, 256)


@dataclass
class Rig:
    """All of it; `plugged` are the keys that are there, by their places."""

    run_dir: Path
    settings: FeederSettings = FeederSettings()  # noqa: RUF009  frozen
    clock: Clock = field(default_factory=Clock)
    plugged: dict[str, ScriptedKey] = field(default_factory=dict)
    missing: list[KeyTrouble] = field(default_factory=list)
    min_entropy: float = 0.5

    def __post_init__(self) -> None:
        self.bell = Bell(self.clock)
        self.recorder = Recorder(self.clock)
        self.asleep_s = 0.0
        self.look: Callable[[], Look | None] = self._look

    def key(
        self, *steps: Step, serial: str = "x", simulated: bool = False, claimed_bits: int = 10_000
    ) -> ScriptedKey:
        return ScriptedKey(self, steps, serial, simulated=simulated, claimed_bits=claimed_bits)

    def _look(self) -> Look:
        sources = [self.source(place, key) for place, key in self.plugged.items()]
        return Look(tuple(sources), tuple(self.missing or ([] if sources else [NoKey()])))

    def source(self, place: str, key: ScriptedKey) -> Source:
        name = f"entropykey:serial={key.serial}"
        return Source(name, "entropykey", key.serial, place, self.min_entropy, key.open)

    def at(self, after_s: float, act: Callable[[], object]) -> None:
        """Plan what happens so long after the beginning."""
        self.bell.plans.append((1000.0 + after_s, act))

    def awake(self) -> float:
        return self.clock() - self.asleep_s

    def feeder(self, **options: Any) -> Feeder:
        return Feeder(
            self.settings, self.run_dir, self.recorder, self.look, self.bell,
            clock=self.clock, awake=self.awake, spawn=self.bell.spawn, **options,
        )  # fmt: skip

    def run(self, *keys: ScriptedKey, for_s: float | None = None) -> "Rig":
        """Plug them in and feed: for so long, or to the end of the first key's steps."""
        self.plugged |= {f"port {number}": key for number, key in enumerate(keys)}
        if for_s is None:
            keys[0].ends = True
        else:
            self.at(for_s, self.bell.stop)
        self.feeder().run()
        return self

    @property
    def seeds(self) -> list[Seed]:
        return [seed for _, seed, _ in self.recorder.seeds]

    @property
    def status(self) -> FeederStatus:
        """What feeder.json says."""
        found = status.read(self.run_dir)
        assert found is not None
        return found
