# SPDX-License-Identifier: LGPL-2.1-or-later
"""The feeder as `virtrng feed` runs it, keys on pseudo-terminals, and a judge who knows what they meant.

Real are the loop, the looker, readers, drivers and transports; a recorder takes the
kernel's place, and gets nothing that the judge does not look at.
"""

import base64
import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.lab.feeder_keys import LONG_TERM_KEY, PATIENCE_S, Plugged, RiggedKey, Worth
from virtrng import status
from virtrng.config import FeederSettings
from virtrng.entropy.conditioner import Conditioner, Seed
from virtrng.entropy.fips140 import check
from virtrng.entropy.params import BLOCK_BYTES, CONDITIONER_INPUT_BITS, SEED_BITS
from virtrng.errors import KernelRefused, VirtrngError
from virtrng.feeder import daemon, looker, source, stock
from virtrng.feeder.bell import Bell
from virtrng.feeder.daemon import Feeder
from virtrng.feeder.ports import HUNG_S
from virtrng.feeder.states import State
from virtrng.sim.entropykey import SERIAL
from virtrng.status import FeederStatus, KernelStatus, KeyStatus
from virtrng.transport import tty

T = TypeVar("T")
ALL = (*(state.value for state in State), status.ABSENT)


class Clock:
    """Seconds that pass as they do, and at once when somebody says so."""

    def __init__(self, clock: int) -> None:
        self._clock = clock
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.clock_gettime(self._clock) + self.ahead_s


class Recorder:
    """In the place of the injector: keeps what it was given, and wakes whoever waits for something."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seeds: list[tuple[Seed, int]] = []
        self.refuses = False
        self.looked = threading.Condition()
        self._clock = clock
        self._last: tuple[float, float] | tuple[None, None] = (None, None)

    def inject(self, seed: Seed, *, made_of_bytes: int, now: float) -> None:
        if self.refuses:
            raise KernelRefused("RNDADDENTROPY", "no CAP_SYS_ADMIN")
        self.seeds.append((seed, made_of_bytes))
        self._last = (now, self._clock())

    def check(self) -> None:
        with self.looked:
            self.looked.notify_all()

    @property
    def status(self) -> KernelStatus:
        return KernelStatus(
            seeds=len(self.seeds),
            seeded_bits=sum(seed.entropy_bits for seed, _ in self.seeds),
            bytes_passed=sum(made_of_bytes for _, made_of_bytes in self.seeds),
            last_seed_at=self._last[0],
            last_seed_boottime_s=self._last[1],
            entropy_avail_bits=256,
        )


class Rig:
    """All of it, from `with` on; run_dir and the links of keys are in `path`."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, *, interval_s: int = 0) -> None:
        """`interval_s` is that of seeds; 0 has each block seed that can."""
        monkeypatch.setattr(tty, "_PTY_MAJORS", frozenset())  # here a key on a pseudo-terminal counts
        monkeypatch.setattr(looker, "LOOK_S", 0.05)
        monkeypatch.setattr(daemon, "STATUS_INTERVAL_S", 0.02)
        monkeypatch.setattr(stock, "Conditioner", self._conditioner)
        self.run_dir = path / "run"
        self.keyring = path / "keyring"
        self.worth = Worth()
        self.made_of: dict[bytes, list[tuple[bytes, int]]] = {}
        self.boottime, self.awake = Clock(time.CLOCK_BOOTTIME), Clock(time.CLOCK_MONOTONIC)
        self.recorder = Recorder(self.boottime)
        self.raised: VirtrngError | None = None
        self._settings = FeederSettings(interval_s=interval_s)
        self._path = path
        self._plugged: list[Plugged] = []

    def _conditioner(self) -> Conditioner:
        return _Recorded(self.made_of)

    # --- keys

    def key(self, serial: str = SERIAL, *, seed: str = "a seed") -> RiggedKey:
        """Make a key that is not plugged in yet, paired."""
        line = f"{serial} {base64.b64encode(LONG_TERM_KEY).decode()}\n"
        self.keyring.touch(0o600)
        if line not in self.keyring.read_text():
            self.keyring.write_text(self.keyring.read_text() + line)
        return RiggedKey(self.worth, serial, seed)

    def plug(self, key: RiggedKey, name: str = "key") -> Plugged:
        self._plugged.append(Plugged(key, self._path / name))
        return self._plugged[-1]

    def feeding(self) -> Plugged:
        """Plug in a key, and wait until it feeds."""
        plugged = self.plug(self.key())
        self.until_state("ok")
        self.until_fed(3)
        return plugged

    def plug_again(self, gone: Plugged) -> Plugged:
        gone.pull()
        again = RiggedKey(self.worth, gone.key.serial, f"seed {len(self._plugged)}")
        return self.plug(again, gone.link.name)

    # --- the feeder

    def __enter__(self) -> "Rig":
        self.bell = Bell()
        names = [f"entropykey:{self._path / name}" for name in ("key", "other")]
        self._looker = looker.Looker(lambda: source.look((), self.keyring, names), self.bell.ring, usb=False)
        self._start()
        return self

    def _start(self) -> None:
        self.feeder = Feeder(
            self._settings, self.run_dir, self.recorder, lambda: self._looker.latest, self.bell,
            clock=self.boottime, awake=self.awake,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.feeder.run()
        except VirtrngError as error:
            self.raised = error
        self.recorder.check()

    def __exit__(self, *_: object) -> None:
        self.bell.stop()
        self.ended()
        for plugged in self._plugged:
            plugged.pull()
        self._looker.close(PATIENCE_S)
        self.bell.close()

    def ended(self) -> VirtrngError | None:
        """Wait until the feeder has ended; return what it raised."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.raised

    def restart(self) -> None:
        """End the feeder, as SIGTERM does, and start another one."""
        self.bell.stop()
        assert self.ended() is None
        self.bell.close()
        self._looker.close(PATIENCE_S)
        self.__enter__()

    def later(self, seconds: float) -> None:
        """Let time pass, for the feeder and not for the keys: no more than a driver may take."""
        assert seconds < HUNG_S
        self.boottime.ahead_s += seconds
        self.awake.ahead_s += seconds
        self.bell.ring()

    def suspended(self, seconds: float) -> None:
        """Let time pass in which the machine was suspended."""
        self.boottime.ahead_s += seconds
        self.bell.ring()

    # --- what can be seen

    def wait(self, event: Callable[[], T | None], what: str) -> T:
        """Return what `event` does as soon as that is true; fails when a minute does not bring it."""
        give_up_s = time.monotonic() + PATIENCE_S
        while not (happened := event()):
            with self.recorder.looked:
                self.recorder.looked.wait(0.1)
            assert self.raised is None, repr(self.raised)
            assert time.monotonic() < give_up_s, f"no {what}; {self.feeder.latest}"
        return happened

    def until(self, event: Callable[[FeederStatus], object], what: str) -> FeederStatus:
        """Return feeder.json as soon as it shows the event."""

        def there() -> FeederStatus | None:
            found = status.read(self.run_dir)
            return found if found and event(found) else None

        return self.wait(there, what)

    def until_state(self, *states: str, **more: Any) -> KeyStatus:
        """Return how the only key fares, as soon as it is in one of these states."""

        def there(found: FeederStatus) -> bool:
            return [key.state in states and all(getattr(key, name) == value for name, value in more.items())
                    for key in found.keys] == [True]  # fmt: skip

        return self.until(there, f"key in state {' or '.join(states)} {more or ''}").keys[0]

    def until_tested(self, blocks: int) -> KeyStatus:
        """Return how the only key fares when so many blocks more were tested."""
        wanted = self.until_state(*ALL).blocks_tested + blocks
        return self.until(lambda found: found.keys[0].blocks_tested >= wanted, f"{blocks} more blocks").keys[
            0
        ]

    def until_fed(self, seeds: int = 1) -> FeederStatus:
        """Return feeder.json when so many seeds more were given."""
        wanted = len(self.recorder.seeds) + seeds
        return self.until(lambda found: found.kernel.seeds >= wanted, f"{seeds} more seeds")

    # --- the judgement

    def judge(self, *, overclaimed: int = 0) -> None:
        """Fail unless each seed is the hash of blocks that keys made and that pass, and is worth its credit.

        Of all blocks at most `overclaimed` are worth less than was claimed for them: in those a fault began.
        """
        found = 0
        used: set[bytes] = set()
        for seed, made_of_bytes in self.recorder.seeds:
            blocks = self.made_of[seed.data]
            assert seed.entropy_bits == SEED_BITS
            assert hashlib.sha256(b"".join(block for block, _ in blocks)).digest() == seed.data
            assert {len(block) for block, _ in blocks} == {BLOCK_BYTES}
            assert not any(check(block) for block, _ in blocks)
            assert made_of_bytes == BLOCK_BYTES * len(blocks)
            worth = [self.worth.of(block, used) for block, _ in blocks]
            assert sum(worth) >= CONDITIONER_INPUT_BITS
            found += sum(bits < claimed for bits, (_, claimed) in zip(worth, blocks, strict=True))
        assert found <= overclaimed


class _Recorded(Conditioner):
    """A conditioner that remembers of what it made each seed."""

    def __init__(self, made_of: dict[bytes, list[tuple[bytes, int]]]) -> None:
        self._made_of = made_of
        super().__init__()

    def discard(self) -> None:
        self._blocks: list[tuple[bytes, int]] = []
        super().discard()

    def add(self, data: bytes, assessed_bits: int) -> None:
        super().add(data, assessed_bits)
        self._blocks.append((data, assessed_bits))

    def take(self, *, credited: bool = True) -> Seed:
        blocks = self._blocks
        seed = super().take(credited=credited)
        self._made_of[seed.data] = blocks
        return seed
