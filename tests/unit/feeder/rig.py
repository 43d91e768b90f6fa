# SPDX-License-Identifier: LGPL-2.1-or-later
"""A feeder among stand-ins that do what they are told: keys, a clock, a stop, an injector that records."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from virtrng.config import FeederSettings
from virtrng.entropy.conditioner import Seed
from virtrng.errors import KernelRefused, NoKey
from virtrng.feeder import daemon
from virtrng.feeder.daemon import Feeder
from virtrng.feeder.source import Source
from virtrng.keys.base import Key, Noise
from virtrng.status import KernelStatus

NAME = "entropykey:serial=x"
# What a key does at one read: noise, none of it, an exception, or something that is called first.
Step = bytes | None | Exception | Callable[[], object]


class Clock:
    """Seconds that pass only when somebody lets them."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Stop(Event):
    """Waiting takes no time but the clock's; what was waited for is recorded. Stops by itself in the end."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.waited_s: list[float] = []
        self.rounds_max = 20

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waited_s.append(timeout)
        self.clock.sleep(timeout)
        if len(self.waited_s) >= self.rounds_max:
            self.set()
        return self.is_set()


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
    """A key that does one step at each read, a second apart, and stops the feeder after the last."""

    serial = "x"

    def __init__(
        self, rig: "Rig", steps: Iterable[Step], *, simulated: bool = False, claimed_bits: int = 10_000
    ) -> None:
        self.rig = rig
        self.claimed_bits = claimed_bits
        self.steps = iter(steps)
        self.simulated = simulated
        self.counters = Counters()
        self.start_trouble: Exception | None = None
        self.closed = 0

    def start(self) -> None:
        if self.start_trouble:
            raise self.start_trouble

    def read(self, timeout_ms: int) -> Noise | None:
        assert timeout_ms == daemon.READ_TIMEOUT_MS
        self.rig.clock.sleep(1.0)
        try:
            step = next(self.steps)
        except StopIteration:
            self.rig.stop.set()
            return None
        if isinstance(step, Exception):
            raise step
        if callable(step):
            step()
            return None
        return None if step is None else Noise(NAME, step, self.claimed_bits)

    def close(self) -> None:
        self.closed += 1


class Recorder:
    """In the place of the injector: keeps what it was given, and when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seeds: list[tuple[float, Seed, int]] = []
        self.refuse = False
        self.refuse_seeds = False
        self.open = 0

    def __call__(self, *, reseed: bool) -> "Recorder":
        if self.refuse:
            raise KernelRefused("RNDADDENTROPY", "no CAP_SYS_ADMIN")
        self.open += 1
        return self

    def inject(self, seed: Seed, *, made_of_bytes: int, now: float) -> None:
        if self.refuse_seeds:
            raise KernelRefused("RNDADDENTROPY", "no CAP_SYS_ADMIN")
        self.seeds.append((self.clock(), seed, made_of_bytes))

    @property
    def status(self) -> KernelStatus:
        last_s = self.seeds[-1][0] if self.seeds else None
        bits = sum(seed.entropy_bits for _, seed, _ in self.seeds)
        return KernelStatus(len(self.seeds), bits, sum(one[2] for one in self.seeds), last_s, last_s, 256)

    def close(self) -> None:
        self.open -= 1


@dataclass
class Rig:
    """All of it; `rounds` are what is plugged in, one list of keys a look, and none after the last."""

    run_dir: Path
    settings: FeederSettings = FeederSettings()  # noqa: RUF009  frozen
    clock: Clock = field(default_factory=Clock)
    rounds: list[list[Key]] = field(default_factory=list)
    min_entropy: float = 0.5

    def __post_init__(self) -> None:
        self.stop = Stop(self.clock)
        self.recorder = Recorder(self.clock)
        self.looks = 0

    def key(self, *steps: Step, simulated: bool = False, claimed_bits: int = 10_000) -> ScriptedKey:
        return ScriptedKey(self, steps, simulated=simulated, claimed_bits=claimed_bits)

    def sources(self) -> list[Source]:
        self.looks += 1
        keys = self.rounds.pop(0) if self.rounds else []
        if not keys:
            raise NoKey
        return [
            Source(f"entropykey:serial={number}", "entropykey", self.min_entropy, lambda key=key: key)  # type: ignore[misc]
            for number, key in enumerate(keys)
        ]

    def feeder(self) -> Feeder:
        return Feeder(self.settings, self.run_dir, self.sources, self.stop, self.clock)

    def run(self, *keys: Key) -> "Rig":
        """Feed from what is plugged in from the beginning, until it stops."""
        self.rounds[:0] = [list(keys)]
        self.feeder().run()
        return self

    @property
    def seeds(self) -> list[Seed]:
        return [seed for _, seed, _ in self.recorder.seeds]


def make_rig(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Return a rig whose feeder gets its recorder for an injector."""
    rig = Rig(run_dir)
    monkeypatch.setattr(daemon, "Injector", rig.recorder)
    return rig
