# SPDX-License-Identifier: LGPL-2.1-or-later
"""The FIPS 140-2 tests on blocks of 20,000 bits, as `rngtest` of Debian's rng-tools-debian counts them.

Source: FIPS 140-2, section 4.9.1, as changed on 2001-10-10; withdrawn by the
change notice of 2002-12-03. A perfect source fails about one block in 1260.

How `rngtest` reads a stream (found by experiment with rng-tools-debian 2.3, block
by block): bits go from the most to the least significant of each byte. Only the
continuous test looks across the edge of a block; a run that spans it
counts on either side with the part that lies there. The first 4 bytes of the
stream only start the continuous test, blocks begin after them. An incomplete
last block is not tested.

How it is fast: a test is a few operations on big integers, each over the whole
block. The block's four quarters are transposed into four *planes* of 5000 bits:
the first, second, third and fourth bits of all nibbles. A plane keeps together
the four bits of the nibbles at one place in the quarters, quarter 0's in the highest.
"""

from operator import le, sub

from virtrng.entropy._bits import run_marks, whole_bytes
from virtrng.entropy.params import (
    BLOCK_BITS,
    BLOCK_BYTES,
    BLOCK_NIBBLES,
    BLOCK_TESTS,
    LONG_RUN_BITS,
    MONOBIT_MAX_BITS,
    MONOBIT_MIN_BITS,
    POKER_MAX,
    POKER_MIN,
    RUNS_MAX,
    RUNS_MIN,
    WORD_BYTES,
)

_Planes = tuple[int, int, int, int]

_QUARTER_BITS = BLOCK_BITS // 4
_FULL = (1 << BLOCK_NIBBLES) - 1  # a plane of ones, or a quarter: both have 5000 bits
_FIRST = 1 << BLOCK_NIBBLES - 1  # where a plane keeps the block's first nibble
_PAIRS = int.from_bytes(b"\x33" * (_QUARTER_BITS // 8), "big")
_SINGLES = int.from_bytes(b"\x55" * (_QUARTER_BITS // 8), "big")

# Of ones, then of zeros.
_EACH_RUNS_MIN = RUNS_MIN * 2
_EACH_RUNS_MAX = RUNS_MAX * 2

_SHORT_ZEROS = bytes(whole_bytes(LONG_RUN_BITS))
_SHORT_ONES = b"\xff" * len(_SHORT_ZEROS)

_BLOCK_ONES = (1 << BLOCK_BITS) - 1
_WORD_BITS = 8 * WORD_BYTES
_WORD_ONES = (1 << _WORD_BITS) - 1
_WORD_LOWS = _BLOCK_ONES // _WORD_ONES  # the lowest bit of each word
_WORD_HIGHS = _WORD_LOWS << _WORD_BITS - 1


class Fips140:
    """The block tests over one stream: holds its last word for the continuous test, and counts.

    `bootstrap` is the 4 bytes before the first block. Give it the first 4
    bytes of the stream, and the blocks after them, to count as `rngtest` does;
    without it the first word of the first block is compared with nothing, and
    no byte goes untested. Raises ValueError for any other length.
    """

    def __init__(self, bootstrap: bytes | None = None) -> None:
        if bootstrap is not None and len(bootstrap) != WORD_BYTES:
            raise ValueError(f"the bootstrap word has {len(bootstrap)} bytes, not {WORD_BYTES}")
        self._word = bootstrap
        self.blocks = 0
        self.failed_blocks = 0
        self.failures = dict.fromkeys(BLOCK_TESTS, 0)

    def test(self, block: bytes) -> frozenset[str]:
        """Test the next 2500 bytes; return the names of the failed tests, none if it passed.

        Raises ValueError for any other length.
        """
        bits = _bits(block)
        failed = _check(block, bits)
        if _repeats_word(bits, self._word):
            failed |= {"continuous_run"}
        self._word = block[-WORD_BYTES:]
        self.blocks += 1
        self.failed_blocks += bool(failed)
        for name in failed:
            self.failures[name] += 1
        return failed


def check(block: bytes) -> frozenset[str]:
    """Return which of the tests that need nothing but the block it fails: all but "continuous_run".

    Raises ValueError unless the block has 2500 bytes.
    """
    return _check(block, _bits(block))


def _bits(block: bytes) -> int:
    if len(block) != BLOCK_BYTES:
        raise ValueError(f"a block has {BLOCK_BYTES} bytes, not {len(block)}")
    return int.from_bytes(block, "big")


def _check(block: bytes, bits: int) -> frozenset[str]:
    failed = []
    planes = _planes(bits)
    weights = _weights(planes)
    if not MONOBIT_MIN_BITS <= sum(weights[:4]) <= MONOBIT_MAX_BITS:
        failed.append("monobit")
    if not POKER_MIN <= _poker_sum(weights) <= POKER_MAX:
        failed.append("poker")
    if not _runs_pass(planes, weights):
        failed.append("runs")
    if _has_long_run(block, bits):
        failed.append("long_run")
    return frozenset(failed)


def _planes(bits: int) -> _Planes:
    """Transpose the quarters, seen as rows of 4 x 4 bits, into planes."""
    q0 = bits >> 3 * _QUARTER_BITS
    q1 = bits >> 2 * _QUARTER_BITS & _FULL
    q2 = bits >> _QUARTER_BITS & _FULL
    q3 = bits & _FULL
    q0, q2 = _swap(q0, q2, 2, _PAIRS)
    q1, q3 = _swap(q1, q3, 2, _PAIRS)
    q0, q1 = _swap(q0, q1, 1, _SINGLES)
    q2, q3 = _swap(q2, q3, 1, _SINGLES)
    return q0, q1, q2, q3


def _swap(upper: int, lower: int, shift: int, mask: int) -> tuple[int, int]:
    """Exchange the masked bits of `upper` with those `shift` to the left of them in `lower`."""
    moved = (upper ^ lower >> shift) & mask
    return upper ^ moved, lower ^ moved << shift


def _weights(planes: _Planes) -> list[int]:
    """Count the ones in the exclusive or of each non-empty set of planes.

    The single planes come first, then ab, bc and cd.
    """
    a, b, c, d = planes
    ab, bc, cd = a ^ b, b ^ c, c ^ d
    parities = (a, b, c, d, ab, bc, cd, a ^ c, a ^ d, b ^ d, ab ^ c, ab ^ d, a ^ cd, b ^ cd, ab ^ cd)
    return [parity.bit_count() for parity in parities]


def _poker_sum(weights: list[int]) -> int:
    """Return the sum of the squares of how often each of the 16 nibbles occurs.

    By Parseval's theorem for the Walsh transform it is 1/16 of the sum of 16
    squares: N^2, and (N - 2w)^2 for each weight w, with N the number of nibbles.
    This is the same, multiplied out.
    """
    return BLOCK_NIBBLES**2 - sum([weight * (BLOCK_NIBBLES - weight) for weight in weights]) // 4


def _runs_pass(planes: _Planes, weights: list[int]) -> bool:
    """Whether there are as many runs of ones and of zeros of each length as there should be."""
    of_all, of_ones = _runs_reaching(planes, weights)
    of_zeros = list(map(sub, of_all, of_ones))
    exactly = list(map(sub, of_ones + of_zeros, [*of_ones[1:], 0, *of_zeros[1:], 0]))
    return all(map(le, _EACH_RUNS_MIN, exactly)) and all(map(le, exactly, _EACH_RUNS_MAX))


def _runs_reaching(planes: _Planes, weights: list[int]) -> tuple[list[int], list[int]]:
    """Count the runs of at least 1, 2, 3, 4, 5 and 6 equal bits: all of them, and those of ones.

    Round k marks the k-th bit of each run that has one. Those marks are at
    least k bits apart, those of ones more than k: marks that cannot meet in a
    nibble, or in half of one, are counted together.
    """
    a, b, c, d = planes
    w, x, y, z = a ^ _before(d) | _FIRST, a ^ b, b ^ c, c ^ d  # where a run begins: unlike the bit before
    same_a, same_b, same_c, same_d = w ^ _FULL, x ^ _FULL, y ^ _FULL, z ^ _FULL
    runs = w.bit_count() + sum(weights[4:7])  # of ab, bc, cd
    # Runs alternate, so that half are of ones; of an odd number the first kind has one more.
    of_all, of_ones = [runs], [(runs + (a >> BLOCK_NIBBLES - 1)) // 2]
    for k in range(2, len(RUNS_MIN) + 1):
        w, x, y, z = _before(z) & same_a, w & same_b, x & same_c, y & same_d
        if k < 4:
            of_all.append((w | x).bit_count() + (y | z).bit_count())
        else:
            of_all.append((w | x | y | z).bit_count())
        if k < 3:
            of_ones.append((w & a | x & b).bit_count() + (y & c | z & d).bit_count())
        else:
            of_ones.append((w & a | x & b | y & c | z & d).bit_count())
    return of_all, of_ones


def _before(plane: int) -> int:
    """Return the plane of the nibbles before: each takes its predecessor's bit, the block's first takes 0.

    The first nibble of a quarter follows the last one of the quarter before,
    which lies in the lowest four bits.
    """
    return plane >> 4 | (plane & 15) >> 1 << BLOCK_NIBBLES - 4


def _has_long_run(block: bytes, bits: int) -> bool:
    # A long run contains whole bytes, and a search for those costs next to nothing.
    if _SHORT_ZEROS not in block and _SHORT_ONES not in block:
        return False
    return run_marks(bits, BLOCK_BITS, LONG_RUN_BITS) != 0


def _repeats_word(bits: int, before: bytes | None) -> bool:
    """Whether some word is equal to the one before it; `before` is what precedes the first, if anything."""
    first = bits >> BLOCK_BITS - _WORD_BITS
    previous = ~first & _WORD_ONES if before is None else int.from_bytes(before, "big")
    unlike = bits ^ (bits >> _WORD_BITS | previous << BLOCK_BITS - _WORD_BITS)
    # The subtraction brings up the high bit of the lowest word that is zero; none comes up without one.
    return (unlike - _WORD_LOWS) & (unlike ^ _BLOCK_ONES) & _WORD_HIGHS != 0
