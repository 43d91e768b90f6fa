# SPDX-License-Identifier: LGPL-2.1-or-later
"""The continuous tests of NIST SP 800-90B over a stream of bits.

Source: SP 800-90B, 4.4.1 (repetition count) and 4.4.2 (adaptive proportion),
for binary samples. A sample is one bit, from the most to the least significant
of each byte, because the claim is made per bit. On noise that a key has whitened
already they see its collapse, and nothing finer.
"""

from virtrng.entropy._bits import run_marks, whole_bytes
from virtrng.entropy.params import (
    ALPHA_EXPONENT,
    ALPHA_EXPONENT_MAX,
    ALPHA_EXPONENT_MIN,
    STREAM_TESTS,
    WINDOW_BITS,
    WINDOW_BYTES,
    apt_cutoff,
    rct_cutoff,
)


class HealthTests:
    """Both tests over one stream, with what they remember of it, and counts.

    `min_entropy` is the claim in bits per bit, above 0 and at most 1; the
    chance of a false alarm is 2^-`alpha_exponent`, 20 to 40, per bit or window.
    Raises ValueError for anything else.

    `alarms` counts per test since the object was made: runs that reached the
    cutoff, and windows that did. `rct_cutoff` and `apt_cutoff` are the cutoffs in bits.
    """

    def __init__(self, min_entropy: float, alpha_exponent: int = ALPHA_EXPONENT) -> None:
        if not 0 < min_entropy <= 1:
            raise ValueError(f"the claimed min-entropy is {min_entropy} bits per bit")
        if not ALPHA_EXPONENT_MIN <= alpha_exponent <= ALPHA_EXPONENT_MAX:
            raise ValueError(f"the exponent of alpha is {alpha_exponent}")
        self.rct_cutoff = rct_cutoff(min_entropy, alpha_exponent)
        self.apt_cutoff = apt_cutoff(min_entropy, WINDOW_BITS, alpha_exponent)
        self.alarms = dict.fromkeys(STREAM_TESTS, 0)
        # A run to the cutoff contains so many whole bytes: at least one, for no cutoff is below 21.
        self._zeros = bytes(whole_bytes(self.rct_cutoff))
        self._ones = b"\xff" * len(self._zeros)
        self._tail_bytes = (self.rct_cutoff + 7) // 8
        self.reset()

    def reset(self) -> None:
        """Forget the stream, as after a gap in it; the counts stay."""
        self._tail = b""  # the end of the stream so far, at least the cutoff long
        self._window = b""  # the beginning of the window that is not full yet

    def feed(self, data: bytes) -> frozenset[str]:
        """Test the next bytes, however many; return the names of the tests that alarm.

        "repetition_count": in these bytes a run is, or goes on being, as long as the
        cutoff; a run may have begun in an earlier call. "adaptive_proportion":
        with these bytes a window became full whose first bit occurs in it as often as the cutoff,
        itself included. Windows do not overlap, and follow one another from the first
        byte (or the last `reset`) on.
        """
        repeats = self._repetition_count(data)
        leans = self._adaptive_proportion(data)
        if not (repeats or leans):
            return frozenset()
        return frozenset(name for name, alarm in zip(STREAM_TESTS, (repeats, leans), strict=True) if alarm)

    def _repetition_count(self, data: bytes) -> bool:
        stream = self._tail + data
        self._tail = stream[-self._tail_bytes :]
        if self._zeros not in stream and self._ones not in stream:
            return False
        marks = run_marks(int.from_bytes(stream, "big"), 8 * len(stream), self.rct_cutoff)
        fresh = (1 << 8 * len(data)) - 1  # what lies in the tail was reported before
        self.alarms["repetition_count"] += (marks & ~(marks >> 1) & fresh).bit_count()
        return marks & fresh != 0

    def _adaptive_proportion(self, data: bytes) -> bool:
        stream = self._window + data
        full_bytes = len(stream) - len(stream) % WINDOW_BYTES
        self._window = stream[full_bytes:]
        starts = range(0, full_bytes, WINDOW_BYTES)
        ones = [int.from_bytes(stream[at : at + WINDOW_BYTES], "big").bit_count() for at in starts]
        most = self.apt_cutoff - 1
        if not ones or (max(ones) <= most and min(ones) >= WINDOW_BITS - most):
            return False  # neither bit occurs too often in any of them
        alarms = sum(
            (n if stream[at] & 0x80 else WINDOW_BITS - n) > most for at, n in zip(starts, ones, strict=True)
        )
        self.alarms["adaptive_proportion"] += alarms
        return alarms > 0
