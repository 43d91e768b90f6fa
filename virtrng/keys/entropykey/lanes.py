# SPDX-License-Identifier: LGPL-2.1-or-later
"""Skein of many short messages side by side: the same bits as skein.Prepared gives, in far less time.

Word w of all messages is one integer, in which message i has the 64 bits from
72 i on, so that one addition, shift or AND of Python's serves all of them:

    bit  0        64       72       136      144
         |  word  | guard  |  word  | guard  |
             message 0         message 1

The guard bits take the carries, so that additions need no mask of their own:
XOR leaves guards as they are, and the masks of a rotation drop them.
"""

from collections.abc import Sequence

from virtrng.keys.entropykey.skein import (
    _FINAL,
    _FIRST,
    _MASK,
    _PARITY,
    _ROTATIONS,
    _SUBKEYS,
    BLOCK_BYTES,
    BlockType,
    Prepared,
    Words,
)

LANES_MAX = 256  # takes less than 1 ms; twice as many gain 7 %, and masks that are twice as long
_WORD_BYTES = 8
_LANE_BYTES = 9  # whole bytes, so that slices fill them; 70 bits are 4 % faster, 128 half as fast

# For LANES_MAX lanes, which serve fewer too: & takes no longer than its shorter side.
_ONES = int.from_bytes((b"\1" + bytes(_LANE_BYTES - 1)) * LANES_MAX, "little")
_WORDS = _ONES * _MASK

_Turn = tuple[int, int, int, int]


def _turn(left: int) -> _Turn:
    """Return what a rotation to the left needs: both shifts, and what stays in the lane of each."""
    right = 64 - left
    return left, _ONES * ((1 << right) - 1), right, _ONES * ((1 << left) - 1)


_TURNS = tuple(tuple((*_turn(r0), *_turn(r1)) for r0, r1 in rounds) for rounds in _ROTATIONS)


def finals(prepared: Prepared, messages: Sequence[bytes]) -> list[bytes]:
    """Return prepared.final of each message; all of them have one length."""
    return _in_batches(prepared, messages, output=True)


def final_pads(prepared: Prepared, messages: Sequence[bytes]) -> list[bytes]:
    """Return prepared.final_pad of each message; all of them have one length."""
    return _in_batches(prepared, messages, output=False)


def _in_batches(prepared: Prepared, messages: Sequence[bytes], *, output: bool) -> list[bytes]:
    if any(len(message) != len(messages[0]) for message in messages):
        raise ValueError("messages of different lengths do not fit side by side")
    hashes: list[bytes] = []
    for start in range(0, len(messages), LANES_MAX):
        batch = messages[start : start + LANES_MAX]
        ones = _ONES & ((1 << 8 * _LANE_BYTES * len(batch)) - 1)
        k0, k1, k2, k3 = prepared.chain
        chain = _ubi(ones, (k0 * ones, k1 * ones, k2 * ones, k3 * ones), batch, BlockType.MESSAGE)
        if output:
            chain = _ubi(ones, chain, [bytes(8)] * len(batch), BlockType.OUTPUT)
        hashes += _gathered(chain, len(batch))
    return hashes


def _ubi(ones: int, chain: Words, messages: Sequence[bytes], kind: BlockType) -> Words:
    """Do what skein.ubi does, with a chain of its own for each message."""
    length = len(messages[0])
    flags = kind << 56 | _FIRST
    for start in range(0, max(1, length), BLOCK_BYTES):
        end = min(length, start + BLOCK_BYTES)
        if end == length:
            flags |= _FINAL
        block = _spread([message[start:end].ljust(BLOCK_BYTES, b"\0") for message in messages])
        out = _threefish_256(ones, chain, (end, flags), block)
        chain = (out[0] ^ block[0], out[1] ^ block[1], out[2] ^ block[2], out[3] ^ block[3])
        flags &= ~_FIRST
    return chain


def _threefish_256(ones: int, key: Words, tweak: tuple[int, int], block: Words) -> Words:
    """Do what skein.threefish_256 does, with a key of its own for each block, and the same tweak.

    Between two masks a subkey makes each word less than 3 * 2**64, and four
    rounds at most double it each time: 48 * 2**64, and a lane holds 256 * 2**64.
    """
    k = (*key, key[0] ^ key[1] ^ key[2] ^ key[3] ^ _PARITY * ones)
    t = (tweak[0] * ones, tweak[1] * ones, (tweak[0] ^ tweak[1]) * ones)
    x0, x1, x2, x3 = block
    for s in range(_SUBKEYS):
        x0 += k[s % 5]
        x1 += k[(s + 1) % 5] + t[s % 3]
        x2 += k[(s + 2) % 5] + t[(s + 1) % 3]
        x3 += k[(s + 3) % 5] + s * ones
        if s == _SUBKEYS - 1:
            break
        for left0, stay0, right0, come0, left1, stay1, right1, come1 in _TURNS[s % 2]:
            x0 += x1
            x2 += x3
            x1, x3 = (
                ((x3 & stay1) << left1 | x3 >> right1 & come1) ^ x2,
                ((x1 & stay0) << left0 | x1 >> right0 & come0) ^ x0,
            )
        x0, x1, x2, x3 = x0 & _WORDS, x1 & _WORDS, x2 & _WORDS, x3 & _WORDS
    return x0 & _WORDS, x1 & _WORDS, x2 & _WORDS, x3 & _WORDS


def _spread(blocks: Sequence[bytes]) -> Words:
    """Return the four words of each block, in lanes."""
    rows = b"".join(blocks)

    def word(at: int) -> int:
        lanes = bytearray(_LANE_BYTES * len(blocks))
        for byte in range(_WORD_BYTES):
            lanes[byte::_LANE_BYTES] = rows[at + byte :: BLOCK_BYTES]
        return int.from_bytes(lanes, "little")

    return word(0), word(8), word(16), word(24)


def _gathered(words: Words, count: int) -> list[bytes]:
    """Return the `count` blocks of which these are the words, in lanes."""
    rows = bytearray(BLOCK_BYTES * count)
    for at, word in zip(range(0, BLOCK_BYTES, _WORD_BYTES), words, strict=True):
        lanes = word.to_bytes(_LANE_BYTES * count, "little")
        for byte in range(_WORD_BYTES):
            rows[at + byte :: BLOCK_BYTES] = lanes[byte::_LANE_BYTES]
    return [bytes(rows[at : at + BLOCK_BYTES]) for at in range(0, len(rows), BLOCK_BYTES)]
