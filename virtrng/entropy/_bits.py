# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs of equal bits in a big integer, whose most significant bit comes first in the stream."""


def run_marks(bits: int, width_bits: int, length_bits: int) -> int:
    """Mark every bit that is equal to the `length_bits - 1` bits before it.

    So a run of exactly `length_bits` has one mark, on its last bit. Of
    `bits` the low `width_bits` are looked at, leading zeros included.
    """
    # same: equal to the bit before; the very first has none.
    same = ~(bits ^ bits >> 1) & (1 << width_bits - 1) - 1
    want, have = length_bits - 1, 1
    while have < want:
        step = min(have, want - have)
        same &= same >> step
        have += step
    return same


def whole_bytes(length_bits: int) -> int:
    """Return how many whole bytes a run of `length_bits` covers, however it lies."""
    return max(0, length_bits - 7) // 8
