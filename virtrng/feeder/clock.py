# SPDX-License-Identifier: LGPL-2.1-or-later
"""When a seed is due. Nothing here waits, and the kernel's opinion of its pool does not matter.

Since kernel 5.19 /dev/random is writable for poll(2) only until the CRNG is
ready: feeders that wait for that feed nothing from then on.
"""

import math

# The two clocks are not read at one moment; a real suspend takes longer than this.
_SUSPENDED_S = 1.0


class SeedClock:
    """Seconds of CLOCK_BOOTTIME are given to it; it reads no clock itself."""

    def __init__(self, interval_s: float) -> None:
        """A seed is due at once, and then every `interval_s`."""
        self._interval_s = interval_s
        self._due_at_s = -math.inf
        self._asleep_s: float | None = None

    def at_once(self) -> None:
        """Make a seed due now: a key was admitted."""
        self._due_at_s = -math.inf

    def seeded(self, now_s: float, *, crng_ready: bool) -> None:
        """Have the next be due an interval after this one was; until the CRNG is ready, as soon as can be."""
        next_s = self._due_at_s + self._interval_s
        if not crng_ready:
            next_s = -math.inf
        elif next_s <= now_s:  # there was none to give for longer than that
            next_s = now_s + self._interval_s
        self._due_at_s = next_s

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until a seed is due; 0 if one is."""
        return max(0.0, self._due_at_s - now_s)

    def due(self, now_s: float) -> bool:
        """Whether a seed is due."""
        return now_s >= self._due_at_s

    def resumed(self, now_s: float, awake_s: float) -> bool:
        """Whether the machine was suspended since the last call.

        CLOCK_MONOTONIC, `awake_s`, stands still meanwhile, and CLOCK_BOOTTIME does not.
        """
        asleep_s, before_s = now_s - awake_s, self._asleep_s
        self._asleep_s = asleep_s
        return before_s is not None and asleep_s - before_s > _SUSPENDED_S
