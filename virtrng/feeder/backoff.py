# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long a key that cannot be used is left alone: opening one resets it, and may disturb its other user."""

FIRST_S = 2.0
LONGEST_S = 30.0
# A session that was this long shows that the key is well: what ended it counts as the first trouble.
WELL_S = 60.0


class Backoff:
    """2, 4, 8, 16, 30 s after one trouble after the other. Seconds are given to it; it reads no clock."""

    def __init__(self) -> None:
        self._next_s = FIRST_S
        self._until_s = 0.0

    def failed(self, now_s: float, lasted_s: float) -> None:
        """Wait from now on, after a session of `lasted_s`."""
        if lasted_s >= WELL_S:
            self._next_s = FIRST_S
        self._until_s = now_s + self._next_s
        self._next_s = min(2 * self._next_s, LONGEST_S)

    def waits(self, now_s: float) -> bool:
        """Whether it is too early for the next try."""
        return now_s < self._until_s
