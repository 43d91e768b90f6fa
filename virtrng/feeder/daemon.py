# SPDX-License-Identifier: LGPL-2.1-or-later
"""The feeder: one key is read, tested and conditioned, and the pool is reseeded from it by our own clock.

It never waits for /dev/random to become writable: since kernel 5.19 it does so
only until the CRNG is ready, and feeders that wait for it feed nothing.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event

from virtrng import kernel, status
from virtrng.config import FeederSettings
from virtrng.entropy.conditioner import Conditioner
from virtrng.errors import BadStatus, FeederRunning, FileFailed, KeySilent, KeyTrouble
from virtrng.feeder.injector import Injector
from virtrng.feeder.keyrings import Keyrings
from virtrng.feeder.life import KeyLife, State
from virtrng.feeder.source import Source
from virtrng.files import Lock
from virtrng.keys.base import Key
from virtrng.status import FeederStatus, KeyStatus

log = logging.getLogger(__name__)

READ_TIMEOUT_MS = 500
STATUS_INTERVAL_S = 1.0
RETRY_S = 2.0


class Feeder:
    """The feeder of one run_dir. Not thread-safe; `stop` may be set from anywhere."""

    def __init__(
        self,
        settings: FeederSettings,
        run_dir: Path,
        sources: Callable[[], Iterable[Source]],
        stop: Event,
        clock: Callable[[], float] = kernel.boottime_s,
    ) -> None:
        """`sources` lists the keys that could be opened now, the first choice first."""
        self._settings = settings
        self._run_dir = run_dir
        self._sources = sources
        self._stop = stop
        self._clock = clock
        self._conditioner = Conditioner()
        self._gathered_bytes = 0
        self._due_at = 0.0
        self._status_due_at = 0.0
        self._status_failed = False
        self._reported: dict[str, str] = {}
        self._key: KeyStatus | None = None
        self._waiting: str | None = None
        self._keyrings = Keyrings(clock)

    def run(self) -> None:
        """Feed until `stop` is set. Raises FeederRunning, KernelRefused or FileFailed before it begins."""
        # Whoever can read a file can hold a lock on it: this one keeps feeders from starting.
        lock = Lock(self._run_dir / status.LOCK_NAME, mode=0o600)
        if holder := lock.acquire(f"virtrng feed (pid {os.getpid()})"):
            raise FeederRunning(holder, self._what_it_feeds())
        try:
            self._injector = Injector(reseed=self._settings.reseed)
            try:
                self._write_status()
                while not self._stop.is_set():
                    self._stop.wait(self._use_a_key())
            finally:
                self._write_status()
                self._injector.close()
        finally:
            lock.release()

    def _what_it_feeds(self) -> str:
        running = None
        with suppress(BadStatus):
            running = status.read(self._run_dir)
        names = [f"{key.kind}:serial={key.serial}" for key in running.keys] if running else []
        return ", ".join(names) or str(self._run_dir)

    def _use_a_key(self) -> float:
        """Use the first key that can be used, until it fails; return the seconds to wait after that."""
        try:
            sources = list(self._sources())
        except KeyTrouble as trouble:  # there is none to choose from
            self._report(trouble, "")
            sources = []
        self._keyrings.forget_all_but({source.name for source in sources})
        for source in sources:
            if self._keyrings.waits(source.name):
                continue
            try:
                key = source.open()
                try:
                    self._feed_from(key, source)
                finally:
                    key.close()
                return 0.0
            except (KeyTrouble, FileFailed) as trouble:  # the file is the keyring
                self._report(trouble, source.name)
                self._keyrings.note(source.name, trouble)
        self._write_status()
        return RETRY_S

    def _report(self, trouble: KeyTrouble | FileFailed, name: str) -> None:
        """Say of each key once what it has, however often that happens in a row."""
        self._waiting = str(trouble)
        if self._key:
            self._key = replace(self._key, state="absent", last_fault=str(trouble))
        # How long a key was silent differs each time, and is no news.
        fact = trouble.code if isinstance(trouble, KeySilent) else str(trouble)
        known = self._reported.get(name) == fact
        if name:
            self._reported.pop("", None)
        else:  # none is there: what the next one has is news
            self._reported.clear()
        self._reported[name] = fact
        if not known:
            log.warning("%s; waiting for a key\n  %s", trouble, trouble.remedy)

    def _feed_from(self, key: Key, source: Source) -> None:
        key.start()
        name = f"{source.kind}:serial={key.serial}"
        note = ", simulated by virtrng: mixed in with a credit of 0" if key.simulated else ""
        log.info("%s: session established%s", name, note)
        self._waiting = None
        for known in ("", source.name):  # what others have is no news yet
            self._reported.pop(known, None)
        life = KeyLife(name, source.min_entropy, self._clock)
        self._discard()
        self._due_at = self._clock()
        try:
            while not self._stop.is_set():
                self._pass_on(key, life)
                if self._clock() >= self._status_due_at:
                    self._key = _status_of(source, key, life)
                    self._write_status()
            if self._conditioner.ready:
                self._seed(key)
        finally:  # after trouble too: the last that a key said may tell why
            self._key = _status_of(source, key, life)

    def _pass_on(self, key: Key, life: KeyLife) -> None:
        """Read once, and do with it what is due."""
        noise = key.read(READ_TIMEOUT_MS)
        for block in life.take(noise) if noise else ():
            self._conditioner.add(block.data, block.assessed_bits)
            self._gathered_bytes += len(block.data)
        if life.state is not State.OK:
            self._discard()
        elif self._conditioner.ready and self._clock() >= self._due_at:
            self._seed(key)

    def _discard(self) -> None:
        self._conditioner.discard()
        self._gathered_bytes = 0

    def _seed(self, key: Key) -> None:
        seed = self._conditioner.take(credited=not key.simulated)
        self._injector.inject(seed, made_of_bytes=self._gathered_bytes, now=time.time())
        log.log(
            logging.INFO if self._injector.status.seeds == 1 else logging.DEBUG,
            "/dev/random seeded with %d bytes made of %d tested bytes, %d bits credited%s",
            len(seed.data), self._gathered_bytes, seed.entropy_bits,
            ", in effect at once" if self._settings.reseed else "",
        )  # fmt: skip
        self._gathered_bytes = 0
        # Until the CRNG is ready each block counts; after that our own clock paces.
        self._due_at = self._clock() + (self._settings.interval_s if kernel.crng_ready() else 0)

    def _write_status(self) -> None:
        """Publish; a full disk costs the status, never the feeding."""
        self._status_due_at = self._clock() + STATUS_INTERVAL_S
        keys = (self._key,) if self._key else ()
        try:
            status.write(
                self._run_dir,
                FeederStatus(time.time(), os.getpid(), keys, self._injector.status, self._waiting),
            )
            self._status_failed = False
        except FileFailed as error:
            if not self._status_failed:
                log.error("%s; feeding goes on without it", error)
            self._status_failed = True


def _status_of(source: Source, key: Key, life: KeyLife) -> KeyStatus:
    counters = key.counters
    return KeyStatus(
        kind=source.kind,
        serial=key.serial,
        state=life.state.value,
        simulated=key.simulated,
        bytes_read=life.bytes_read,
        blocks_tested=life.blocks_tested,
        blocks_failed=life.blocks_failed,
        frames_bad=counters.frames_bad,
        sessions=counters.sessions,
        last_fault=life.last_fault,
        telemetry=dict(counters.telemetry.figures),
        verdict=counters.telemetry.verdict,
    )
