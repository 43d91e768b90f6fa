# SPDX-License-Identifier: LGPL-2.1-or-later
"""Skein-256-256 version 1.1, as the Entropy Key computes it.

Version 1.1 (2008) is not the final Skein: 1.2 changed the rotations, and 1.3
the key parity too, so no current library gives these results. The key departs
from the paper once more: see `prepare`. Every Prepared state is immutable, so
one made per session serves every frame of it.

Source: "The Skein Hash Function Family", version 1.1, 2008, sections 3.3
(Threefish) and 3.4 (UBI); device/skeinwrap.c of ekeyd 1.1.5.
"""

import struct
from dataclasses import dataclass, field
from enum import IntEnum

Words = tuple[int, int, int, int]

BLOCK_BYTES = 32
_MASK = 0xFFFFFFFFFFFFFFFF
_PARITY = 0x5555555555555555  # version 1.1, section 3.3.2; 0x1BD11BDAA9FC1A22 only since 1.3

# Version 1.1, table of the rotation constants for 4 words: (r0, r1) of rounds d mod 8.
_ROTATIONS = (
    ((5, 56), (36, 28), (13, 46), (58, 44)),
    ((26, 20), (53, 35), (11, 42), (59, 50)),
)
_SUBKEYS = 19  # one before every fourth of the 72 rounds, and one at the end

_FIRST = 1 << 62
_FINAL = 1 << 63

ZERO_CHAIN: Words = (0, 0, 0, 0)
# "SHA3", version 1, then the output's length in bits; neither a tree nor a reserved field.
CONFIGURATION = struct.pack("<4sHHQQQ", b"SHA3", 1, 0, 256, 0, 0)


class BlockType(IntEnum):
    """What a UBI stage processes: the type field of the tweak, version 1.1, table 5."""

    KEY = 0
    CONFIGURATION = 4
    PERSONALISATION = 8
    MESSAGE = 48
    OUTPUT = 63


def threefish_256(key: Words, tweak: tuple[int, int], block: Words) -> Words:
    """Encrypt one block of four little-endian words under Threefish-256 version 1.1."""
    k = (*key, key[0] ^ key[1] ^ key[2] ^ key[3] ^ _PARITY)
    t = (tweak[0], tweak[1], tweak[0] ^ tweak[1])
    x0, x1, x2, x3 = block
    for s in range(_SUBKEYS):
        x0 = (x0 + k[s % 5]) & _MASK
        x1 = (x1 + k[(s + 1) % 5] + t[s % 3]) & _MASK
        x2 = (x2 + k[(s + 2) % 5] + t[(s + 1) % 3]) & _MASK
        x3 = (x3 + k[(s + 3) % 5] + s) & _MASK
        if s == _SUBKEYS - 1:
            break
        for r0, r1 in _ROTATIONS[s % 2]:
            x0 = (x0 + x1) & _MASK
            x2 = (x2 + x3) & _MASK
            # Words 1 and 3 change places after every round.
            x1, x3 = (
                (x3 << r1 & _MASK | x3 >> 64 - r1) ^ x2,
                (x1 << r0 & _MASK | x1 >> 64 - r0) ^ x0,
            )
    return x0, x1, x2, x3


def ubi(chain: Words, data: bytes, kind: BlockType, *, final: bool = True) -> Words:
    """Chain one stage over `data`, and mark its last block as final unless told otherwise."""
    flags = kind << 56 | _FIRST
    blocks = max(1, -(-len(data) // BLOCK_BYTES))
    for number in range(blocks):
        end = min(len(data), (number + 1) * BLOCK_BYTES)
        if number == blocks - 1 and final:
            flags |= _FINAL
        block: Words = struct.unpack("<4Q", data[number * BLOCK_BYTES : end].ljust(BLOCK_BYTES, b"\0"))
        out = threefish_256(chain, (end, flags), block)
        chain = (out[0] ^ block[0], out[1] ^ block[1], out[2] ^ block[2], out[3] ^ block[3])
        flags &= ~_FIRST
    return chain


@dataclass(frozen=True, slots=True)
class Prepared:
    """A hash that has taken everything but its message; it is worth as much as the key in it."""

    chain: Words = field(repr=False)

    def final(self, message: bytes) -> bytes:
        """Return the 32-byte hash of `message`."""
        return struct.pack(
            "<4Q", *ubi(ubi(self.chain, message, BlockType.MESSAGE), bytes(8), BlockType.OUTPUT)
        )

    def final_pad(self, message: bytes) -> bytes:
        """Return the 32 bytes of the chain after `message`, without an output stage."""
        return struct.pack("<4Q", *ubi(self.chain, message, BlockType.MESSAGE))


def prepare(serial: bytes, secret: bytes, personalisation: bytes) -> Prepared:
    """Return the hash keyed by the 12-byte serial and a 32-byte secret.

    The key never ends its personalisation stage: a full buffered block is
    processed only when more bytes follow, and the switch to the message empties
    the buffer. So bytes 64 to 95 of the 96-byte string are lost, and no block
    of that stage is final. No Skein library can be asked to do this.
    """
    chain = ubi(ZERO_CHAIN, serial + secret, BlockType.KEY)
    chain = ubi(chain, CONFIGURATION, BlockType.CONFIGURATION)
    return Prepared(ubi(chain, personalisation[: 2 * BLOCK_BYTES], BlockType.PERSONALISATION, final=False))
