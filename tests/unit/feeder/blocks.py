# SPDX-License-Identifier: LGPL-2.1-or-later
"""Blocks for the feeder: clean ones, one that FIPS 140-2 refuses, one that raises an alarm."""

from functools import cache

from virtrng.entropy.fips140 import check
from virtrng.entropy.params import BLOCK_BYTES
from virtrng.sim.entropykey import seeded_noise

_NOISE = seeded_noise(b"blocks for the feeder's tests   ")
_CLEAN: list[bytes] = []


@cache
def clean(number: int) -> bytes:
    """Return the block of that number of a stream in which none fails."""
    while len(_CLEAN) <= number:
        block = _NOISE(BLOCK_BYTES)
        if not check(block):
            _CLEAN.append(block)
    return _CLEAN[number]


def _biased() -> bytes:
    """Return noise in which a bit is one 9 times in 16: the monobit test refuses it, no alarm is raised."""
    parts = [int.from_bytes(_NOISE(BLOCK_BYTES), "big") for _ in range(4)]
    return (parts[0] | parts[1] & parts[2] & parts[3]).to_bytes(BLOCK_BYTES, "big")


BIASED = _biased()
STUCK = _NOISE(1200) + bytes(100) + _NOISE(1200)
