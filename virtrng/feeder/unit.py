# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the service manager hears from the feeder: when others may start, that it is well, what it does."""

import math

from virtrng import service

# However long a key takes: no boot waits for it longer.
READY_AFTER_S = 10.0
# sd_watchdog_enabled(3) recommends half of the time; a third allows for a round that is late.
_ALIVE_PART = 3


class Unit:
    """Seconds are given to it; they are CLOCK_MONOTONIC's, as the watchdog's are."""

    def __init__(self, awake_s: float) -> None:
        self._began_s = awake_s
        self._ready = False
        self._said: str | None = None
        watchdog_s = service.watchdog_s()
        self._alive_every_s = watchdog_s / _ALIVE_PART if watchdog_s else math.inf
        self._alive_at_s = awake_s if watchdog_s else math.inf

    def ready(self, awake_s: float, *, seeded: bool, promising: bool) -> None:
        """Say READY once: the pool is `seeded`, no key is `promising` to do it, or it takes too long."""
        if not self._ready and (seeded or not promising or awake_s - self._began_s >= READY_AFTER_S):
            self._ready = True
            service.ready()

    def alive(self, awake_s: float) -> None:
        """Be called in each round of the feeder's loop, and from nowhere else."""
        if awake_s >= self._alive_at_s:
            self._alive_at_s = awake_s + self._alive_every_s
            service.alive()

    def says(self, text: str) -> None:
        """Have 'systemctl status' show `text`, if it is news."""
        if text != self._said:
            self._said = text
            service.says(text)
