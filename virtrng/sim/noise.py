# SPDX-License-Identifier: LGPL-2.1-or-later
"""The generator inside a simulated key, and the ways in which it goes bad.

What it gives goes through the firmware like any other noise: it is encrypted,
and its MAC is right. What it gives is determined by its source alone.
"""

import hashlib
from collections.abc import Callable

# How much it remembers, and how much of that a replay sends again: 12 finished blocks of 78 frames, and 3.
# NB: no multiples of 2500, so that no block of the host's is an earlier one again.
MEMORY_BYTES = 12 * 78 * 32
REPLAY_BYTES = 3 * 78 * 32
SHORT_CYCLE_BYTES = 100
LONG_CYCLE_BYTES = 8192  # as of a shift register of 16 bits: each block by itself looks perfect
# A drift takes ten minutes at a real key's pace.
DRIFT_BYTES = 2_500_000

# The part of all bits that are ones.
_ONES = {"biased-51": 0.51, "biased-52": 0.52, "biased-60": 0.60}
_DRIFTED = 0.60
_CYCLES = {"short-cycle": SHORT_CYCLE_BYTES, "long-cycle": LONG_CYCLE_BYTES}
_BIAS_BITS = 16  # a chance is kept to so many binary digits

FAILURES = {
    "stuck": "every bit of its noise is 0, from then on",
    **{name: f"{ones:.0%} of the bits of its noise are ones, from then on" for name, ones in _ONES.items()},
    "drift": f"its noise leans to ones more and more, up to {_DRIFTED:.0%} after {DRIFT_BYTES:,} bytes",
    **{name: f"its noise is the same {size:,} bytes, over and over, from then on"
       for name, size in _CYCLES.items()},
    "replay": f"{REPLAY_BYTES:,} bytes that it sent before come once again",
    "half-dead": "half of its noise is dead behind its whitening: no test can see it",
}  # fmt: skip


class Generator:
    """Makes the noise of a simulated key from `source`; sound until told otherwise."""

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self._source = source
        self._memory = bytearray()  # of what it gave last
        self._replays = 0  # asked for, and not begun
        self._again = bytearray()  # what a replay has yet to give
        self.recover()

    def recover(self) -> None:
        """Be sound from now on."""
        self._failure = ""
        self._cycle = b""
        self._given_bytes = 0  # since the failure began

    def fail(self, name: str) -> None:
        """Begin one of FAILURES, in the place of any other.

        A replay begins when there is enough to send again, and passes by itself.
        """
        if name == "replay":
            self._replays += 1
            return
        self.recover()
        self._failure = name
        if name in _CYCLES:
            self._cycle = self._source(_CYCLES[name])

    def __call__(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if self._replays and not self._again and len(self._memory) == MEMORY_BYTES:
            self._replays -= 1
            self._again = self._memory[:REPLAY_BYTES]
        given = bytes(self._again[:size])
        del self._again[:size]
        if len(given) < size:
            given += self._fresh(size - len(given))
        self._memory += given
        del self._memory[:-MEMORY_BYTES]
        return given

    def _fresh(self, size: int) -> bytes:
        at, self._given_bytes = self._given_bytes, self._given_bytes + size
        match self._failure:
            case "stuck":
                return bytes(size)
            case "short-cycle" | "long-cycle":
                at %= len(self._cycle)
                turns = size // len(self._cycle) + 2
                return (self._cycle * turns)[at : at + size]
            case "half-dead":
                return hashlib.shake_256(self._source(size // 2)).digest(size)
            case "drift":
                return self._leaning(size, 0.5 + (_DRIFTED - 0.5) * min(1.0, at / DRIFT_BYTES))
            case "":
                return self._source(size)
        return self._leaning(size, _ONES[self._failure])

    def _leaning(self, size: int, ones: float) -> bytes:
        """Return bits of which this part are ones, each by itself."""
        # A bit of the mask is set with a chance of `chance` / 2^16: one binary digit of it at a time.
        chance = round((2 * ones - 1) * 2**_BIAS_BITS)
        mask = 0
        for digit in range(_BIAS_BITS):
            random = int.from_bytes(self._source(size), "big")
            mask = mask | random if chance >> digit & 1 else mask & random
        return (mask | int.from_bytes(self._source(size), "big")).to_bytes(size, "big")
