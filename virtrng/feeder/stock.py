# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each key has given that was tested and not used yet, and how the key fares.

A stock is the key's for as long as the feeder runs, whatever becomes of its
sessions: a loose contact must not wash a bad key clean. The thread that reads
the key puts in, the feeder's takes out; a lock of its own keeps them apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

from virtrng.entropy.conditioner import Conditioner, Seed
from virtrng.errors import KeyInUse
from virtrng.feeder.life import KeyLife
from virtrng.feeder.states import State
from virtrng.keys.base import Counters, Key, Noise
from virtrng.status import KeyStatus


class Owner(Protocol):
    """Who reads the key now."""

    @property
    def stopping(self) -> bool:
        """Whether it was told to end: what it puts in from then on does not count."""
        ...


@dataclass(frozen=True, slots=True)
class Made:
    """A seed, and how many tested bytes of which key it was made of."""

    name: str
    seed: Seed
    of_bytes: int


class Stock:
    """One key's life and conditioner; all of it may be called from any thread."""

    def __init__(self, kind: str, serial: str, min_entropy: float, clock: Callable[[], float]) -> None:
        """`min_entropy` is in bits per bit; `clock` counts seconds and never goes back."""
        self.name = f"{kind}:serial={serial}"
        self._kind = kind
        self._serial = serial
        self._lock = Lock()
        self._life = KeyLife(self.name, min_entropy, clock)
        self._conditioner = Conditioner()
        self._gathered_bytes = 0
        self._owner: Owner | None = None
        self._simulated = False
        self._counters: Counters | None = None

    @property
    def state(self) -> State:
        """Where the key stands."""
        return self._life.state

    def begin(self, owner: Owner, key: Key) -> None:
        """Begin a session of `owner`'s. Raises KeyInUse where another one has not ended."""
        with self._lock:
            if self._owner is not None and not self._owner.stopping:
                raise already_read(self.name)
            self._owner = owner
            self._simulated = key.simulated
            self._counters = key.counters
            self._discard()
            self._life.begin()

    def put(self, owner: Owner, noise: Noise | None, counters: Counters) -> bool:
        """Take what one read of `owner`'s gave; return whether the feeder has something to do now."""
        with self._lock:
            if self._owner is not owner or owner.stopping:
                return False
            before = (self._life.state, self._conditioner.ready)
            self._counters = counters
            for block in self._life.take(noise) if noise else ():
                self._conditioner.add(block.data, block.assessed_bits)
                self._gathered_bytes += len(block.data)
            if self._life.state is not State.OK:
                self._discard()
            return before != (self._life.state, self._conditioner.ready)

    def end(self, owner: Owner, counters: Counters) -> None:
        """End the session of `owner`'s; what it gave and nobody took is dropped."""
        with self._lock:
            if self._owner is owner:
                self._owner = None
                self._counters = counters
                self._discard()

    def take(self) -> Made | None:
        """Return a seed made of all that is there; None if the key is not OK or has not given enough."""
        with self._lock:
            if self._owner is None or self._life.state is not State.OK or not self._conditioner.ready:
                return None
            made = Made(self.name, self._conditioner.take(credited=not self._simulated), self._gathered_bytes)
            self._gathered_bytes = 0
            return made

    @property
    def has_seed(self) -> bool:
        """Whether take() would return one."""
        with self._lock:
            return self._owner is not None and self._life.state is State.OK and self._conditioner.ready

    @property
    def simulated(self) -> bool:
        """Whether the last session's bytes count for nothing."""
        return self._simulated

    @property
    def label(self) -> str:
        """The name, marked where the last session was with a simulated key."""
        return f"{self.name}{' (simulated by virtrng)' if self._simulated else ''}"

    @property
    def status(self) -> KeyStatus:
        """How the key fares; its `state` is that of its life, whether or not it is there now."""
        with self._lock:
            life, counters = self._life, self._counters
            return KeyStatus(
                kind=self._kind,
                serial=self._serial,
                state=life.state.value,
                simulated=self._simulated,
                bytes_read=life.bytes_read,
                blocks_tested=life.blocks_tested,
                blocks_failed=life.blocks_failed,
                frames_bad=counters.frames_bad if counters else 0,
                sessions=counters.sessions if counters else 0,
                last_fault=life.last_fault,
                telemetry=dict(counters.telemetry.figures) if counters else {},
                verdict=counters.telemetry.verdict if counters else None,
                reason=life.reason,
                until_boottime_s=life.until_s,
                failures=dict(life.failures),
                failure_rate=life.failure_rate,
                quarantines=life.quarantines,
            )

    def _discard(self) -> None:
        self._conditioner.discard()
        self._gathered_bytes = 0


class Stocks:
    """All of them, by the name of their key."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._stocks: dict[str, Stock] = {}

    def of(self, kind: str, serial: str, min_entropy: float) -> Stock:
        """Return that of this key, a new one if it was never here."""
        with self._lock:
            made = Stock(kind, serial, min_entropy, self._clock)
            return self._stocks.setdefault(made.name, made)

    def find(self, kind: str, serial: str) -> Stock | None:
        """Return that of this key, None if it was never here."""
        return self._stocks.get(f"{kind}:serial={serial}")

    def all(self) -> list[Stock]:
        """Return them, in the order in which their keys came first."""
        with self._lock:
            return list(self._stocks.values())


def already_read(name: str) -> KeyInUse:
    """Say that two keys tell the same name."""
    return KeyInUse(name, "this feeder already", "two keys report the same serial: unplug one of them")
