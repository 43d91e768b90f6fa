# SPDX-License-Identifier: LGPL-2.1-or-later
"""Noise that came before: one value for ever, a short cycle, an old stretch once more.

No such thing happens by chance: one finding is a fault of the key. What is
looked for, at any offset in bytes, whole blocks or not:

* the second half of a block, in the 3,750 bytes before it: every cycle up to that
  length, one value among them;
* windows of 32 bytes that begin with one certain byte. Of each a fingerprint is kept, in a
  table where a new one takes the place of an old one by chance. So it is never full, and forgets slowly:
  a window that came n windows ago is still there with the chance exp(-n / REPLAY_SLOTS).
"""

from array import array
from hashlib import sha256
from struct import Struct

from virtrng.entropy.params import (
    BLOCK_BYTES,
    REPEAT_BYTES,
    REPEAT_TESTS,
    REPLAY_MARK,
    REPLAY_SLOTS,
    REPLAY_WINDOW_BYTES,
)

ONE_VALUE, CYCLE, REPLAY = REPEAT_TESTS

_TWO_OF_FOUR = Struct(">QQ16x")  # words of a digest


class Repeats:
    """The memory of one stream; 1 MB, and the last block."""

    def __init__(self) -> None:
        self._before = b""
        self._fingerprints = array("Q", bytes(8 * REPLAY_SLOTS))

    def test(self, block: bytes) -> frozenset[str]:
        """Test the next 2500 bytes; return the names of the tests that find something, none if all is new.

        Raises ValueError for any other length.
        """
        if len(block) != BLOCK_BYTES:
            raise ValueError(f"a block has {BLOCK_BYTES} bytes, not {len(block)}")
        stream = self._before + block
        found = set()
        if period_bytes := _period_bytes(stream):
            found.add(ONE_VALUE if period_bytes == 1 else CYCLE)
        # A window that begins in the last block may end in this one.
        if self._came_before(stream, max(0, len(self._before) - REPLAY_WINDOW_BYTES + 1)):
            found.add(REPLAY)
        self._before = block
        return frozenset(found)

    def _came_before(self, stream: bytes, start: int) -> bool:
        """Enter every window from `start` on, and return whether one of them was there."""
        again = False
        last = len(stream) - REPLAY_WINDOW_BYTES
        at = stream.find(REPLAY_MARK, start)
        while 0 <= at <= last:
            # A digest, because noise is never stored; the place and the fingerprint have no bit in common.
            digest = sha256(stream[at : at + REPLAY_WINDOW_BYTES]).digest()
            place, fingerprint = _TWO_OF_FOUR.unpack(digest)
            slot = place % REPLAY_SLOTS
            again = again or self._fingerprints[slot] == fingerprint
            self._fingerprints[slot] = fingerprint
            at = stream.find(REPLAY_MARK, at + 1)
        return again


def _period_bytes(stream: bytes) -> int:
    """Return how far before its end the last REPEAT_BYTES of `stream` occurred last; 0 if they did not."""
    start = len(stream) - REPEAT_BYTES
    half = stream[start:]
    head = half[:REPLAY_WINDOW_BYTES]
    at = start
    while (at := stream.rfind(head, 0, at - 1 + len(head))) >= 0:
        if stream[at : at + REPEAT_BYTES] == half:
            return start - at
    return 0
