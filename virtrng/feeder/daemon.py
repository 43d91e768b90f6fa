# SPDX-License-Identifier: LGPL-2.1-or-later
"""The feeder: keys are read, tested and conditioned, each on its own, and the pool is reseeded from them.

    looker thread ── which keys are there ──┐
    reader threads ── tested blocks ─► stocks ─► this loop ─► injector, feeder.json, the service manager

The loop is the only one that seeds. It waits for its bell and for the clock, and
never for a key, for sysfs, or for /dev/random to become writable.
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from virtrng import kernel, service, status
from virtrng.config import FeederSettings
from virtrng.entropy.conditioner import Seed
from virtrng.errors import BadStatus, FeederRunning, FileFailed
from virtrng.feeder.clock import SeedClock
from virtrng.feeder.journal import Fed
from virtrng.feeder.ports import Ports
from virtrng.feeder.reader import Reader, in_thread
from virtrng.feeder.source import Look
from virtrng.feeder.stock import Stocks
from virtrng.feeder.unit import Unit
from virtrng.files import Lock
from virtrng.status import FeederStatus, KernelStatus

log = logging.getLogger(__name__)

STATUS_INTERVAL_S = 1.0


class Injector(Protocol):
    """What puts seeds into the kernel's pool."""

    @property
    def status(self) -> KernelStatus:
        """What was given so far."""
        ...

    def inject(self, seed: Seed, *, made_of_bytes: int, now: float) -> None:
        """Mix `seed` in with its credit; `now` is Unix time. Raises KernelRefused or InjectorLost."""
        ...

    def check(self) -> None:
        """Raise InjectorLost if it has ended."""
        ...


class Waiting(Protocol):
    """What the loop waits at: a Bell."""

    @property
    def stopping(self) -> bool:
        """Whether the feeder was told to end."""
        ...

    def ring(self) -> None:
        """Wake it, from any thread."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Return when it was rung, or after `timeout_s`."""
        ...


class Feeder:
    """The feeder of one run_dir. `latest` is what it last published."""

    def __init__(
        self,
        settings: FeederSettings,
        run_dir: Path,
        injector: Injector,
        look: Callable[[], Look | None],
        bell: Waiting,
        *,
        enough: Callable[[KernelStatus], bool] = lambda _kernel: False,
        clock: Callable[[], float] = kernel.boottime_s,
        awake: Callable[[], float] = time.monotonic,
        spawn: Callable[[Reader], object] = in_thread,
    ) -> None:
        """`look` tells, at once, what keys were last seen; None before the first look.

        `enough` is asked about once a second whether what was given will do. `clock` is
        CLOCK_BOOTTIME and `awake` CLOCK_MONOTONIC; `spawn` has a reader run.
        """
        self.latest: FeederStatus | None = None
        self._settings = settings
        self._run_dir = run_dir
        self._injector = injector
        self._look = look
        self._bell = bell
        self._enough = enough
        self._clock = clock
        self._awake = awake
        self._stocks = Stocks(clock)
        self._ports = Ports(self._stocks, bell.ring, clock, awake, spawn)
        self._seed_clock = SeedClock(settings.interval_s)
        self._unit = Unit(awake())
        self._started_s = self._status_due_s = clock()
        self._fed = Fed(self._started_s)
        self._status_failed = False
        self._feeding: list[str] = []

    def run(self) -> None:
        """Feed until the bell says stop, or it is enough; the last thing is a seed.

        Raises FeederRunning or FileFailed before it begins, later KernelRefused or InjectorLost.
        """
        # Whoever can read a file can hold a lock on it: this one keeps feeders from starting.
        lock = Lock(self._run_dir / status.LOCK_NAME, mode=0o600)
        if holder := lock.acquire(f"virtrng feed (pid {os.getpid()})"):
            raise FeederRunning(holder, self._what_it_feeds())
        with ExitStack() as ending:  # the last comes first
            ending.callback(lock.release)
            ending.callback(self._ports.close)
            ending.callback(self._publish)  # where each key stood, before it is given back
            self._round()
            while not self._bell.stopping and not self._enough(self._injector.status):
                self._bell.wait(self._wait_s())
                self._round()
            service.stopping()
            self._seed()

    def _what_it_feeds(self) -> str:
        running = None
        with suppress(BadStatus):
            running = status.read(self._run_dir)
        names = [f"{key.kind}:serial={key.serial}" for key in running.keys] if running else []
        return ", ".join(names) or str(self._run_dir)

    def _round(self) -> None:
        """Do all that is due. Nothing in here waits for anything outside this process but the injector."""
        now_s, awake_s = self._clock(), self._awake()
        look = self._look()
        if look is not None:
            self._ports.match(look)
        self._ports.tend()
        before, self._feeding = self._feeding, self._ports.feeding
        if set(self._feeding) - set(before) or self._seed_clock.resumed(now_s, awake_s):
            self._seed_clock.at_once()
        if self._seed_clock.due(now_s):
            self._seed()
        self._fed.tell(now_s, self._feeding)
        if now_s >= self._status_due_s:
            self._injector.check()
            self._publish()
        self._tell_unit(awake_s, look)

    def _wait_s(self) -> float:
        now_s = self._clock()
        wait_s = max(0.0, self._status_due_s - now_s)
        if any(stock.has_seed for stock in self._stocks.all()):
            wait_s = min(wait_s, self._seed_clock.wait_s(now_s))
        return wait_s

    def _seed(self) -> None:
        """Give a seed of each key that is OK and has given enough for one; none is mixed with another's."""
        given = [made for stock in self._stocks.all() if (made := stock.take())]
        for made in given:
            self._injector.inject(made.seed, made_of_bytes=made.of_bytes, now=time.time())
            log.log(
                logging.INFO if self._injector.status.seeds == 1 else logging.DEBUG,
                "/dev/random seeded with %d bytes made of %d tested bytes of %s, %d bits credited%s",
                len(made.seed.data), made.of_bytes, made.name, made.seed.entropy_bits,
                ", in effect at once" if self._settings.reseed else "",
            )  # fmt: skip
        if given:
            self._seed_clock.seeded(self._clock(), crng_ready=kernel.crng_ready())

    # --- what is told

    def _tell_unit(self, awake_s: float, look: Look | None) -> None:
        self._unit.alive(awake_s)
        self._unit.ready(
            awake_s,
            seeded=kernel.crng_ready() or self._injector.status.seeded_bits > 0,
            promising=look is None or self._ports.promising,
        )
        if self._feeding:
            self._unit.says(f"fed by {', '.join(self._feeding)}")
        else:
            why = self._ports.waiting or self._ports.standing or "none is ready yet"
            self._unit.says(f"no key feeds the pool: {why}")

    def _publish(self) -> None:
        """Replace feeder.json; a full disk costs the status, never the feeding."""
        self._status_due_s = self._clock() + STATUS_INTERVAL_S
        self.latest = FeederStatus(
            updated_at=time.time(),
            pid=os.getpid(),
            keys=self._ports.statuses(),
            kernel=replace(self._injector.status, crng_ready=kernel.crng_ready()),
            waiting=self._ports.waiting,
            started_boottime_s=self._started_s,
            unfed_since_boottime_s=self._fed.unfed_since_s,
        )
        try:
            status.write(self._run_dir, self.latest)
            if self._status_failed:
                log.warning("%s is written again", self._run_dir / status.FILE_NAME)
            self._status_failed = False
        except FileFailed as error:
            if not self._status_failed:
                log.error("%s; feeding goes on without it", error)
            self._status_failed = True
