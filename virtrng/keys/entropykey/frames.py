# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Entropy Key's frames: 64 bytes each, from the stream that they arrive in.

    offset 0   "* "         start of frame
           2   type, class  the class is ">" for text, "!" for binary
           4   payload      50 characters, padded with spaces
          54   MAC          8 base64 characters, over bytes 2 to 53
          62   CR LF        end of frame

A binary payload is a sub-code of two characters and at most 36 bytes as base64.

Source: README.protocol of ekeyd 1.1.5; resynchronisation as its host/frame.c.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field
from enum import Enum

FRAME_BYTES = 64
SUB_CODE_MAX = 4095

_START = b"* "
_END = b"\r\n"
_PAYLOAD_CHARACTERS = 50
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
# Printable ASCII, then a MAC: everything between the start and the end of a frame.
_BODY = re.compile(rb"[ -~]{52}[A-Za-z0-9+/]{8}")


class FrameType(Enum):
    """Type and class of a frame, as sent."""

    SERIAL_NUMBER = b"S!"
    BLOCK_READY = b"k>"
    SESSION_REKEY = b"K!"
    ENTROPY = b"E!"
    INFORMATION = b"I>"
    NONCE_MAC_STORED = b"M>"
    LONG_TERM_REKEY = b"L!"
    LONG_TERM_REFUSED = b"l>"
    UNEXPECTED_INPUT = b"W>"
    GENERATORS_BAD = b"B>"
    UNKNOWN = b""


@dataclass(frozen=True, slots=True)
class Frame:
    """One well-formed frame; nothing says yet that its MAC is right.

    `covered` is what the MAC is over. `sub_code` (0 to 4095) and `binary` are
    those of a binary frame, 0 and empty for text.
    """

    type: FrameType
    covered: bytes = field(repr=False)
    mac: bytes = field(repr=False)
    sub_code: int
    binary: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The payload of a text frame without its padding."""
        return self.covered[2:].decode("ascii").rstrip(" ")


def encode_sub_code(value: int) -> bytes:
    """Return 0 to 4095 as two base64 characters, the low six bits first."""
    return bytes((_ALPHABET[value & 63], _ALPHABET[value >> 6]))


def decode_sub_code(characters: bytes) -> int:
    """Return the number in two base64 characters; raises ValueError for any others."""
    return _ALPHABET.index(characters[0]) | _ALPHABET.index(characters[1]) << 6


def text_frame(kind: FrameType, text: str) -> bytes:
    """Return the 52 bytes that the MAC of a text frame covers."""
    return kind.value + text.encode("ascii").ljust(_PAYLOAD_CHARACTERS)


def binary_frame(kind: FrameType, sub_code: int, binary: bytes) -> bytes:
    """Return the 52 bytes that the MAC of a binary frame covers."""
    payload = encode_sub_code(sub_code) + base64.b64encode(binary)
    return kind.value + payload.ljust(_PAYLOAD_CHARACTERS)


def assemble(covered: bytes, mac: bytes) -> bytes:
    """Return the 64 bytes of a frame: what its MAC covers, and the MAC's 6 bytes."""
    return _START + covered + base64.b64encode(mac) + _END


def _parse(window: bytes) -> Frame | None:
    """Return the frame in 64 bytes that start and end as one, None if its characters are wrong."""
    if _BODY.fullmatch(window, 2, 62) is None:
        return None
    covered = window[2:54]
    sub_code, binary = 0, b""
    if covered[1:2] == b"!":
        try:
            sub_code = decode_sub_code(covered[2:4])
            binary = base64.b64decode(covered[4:].rstrip(b" "), validate=True)
        except (ValueError, binascii.Error):
            return None
    try:
        kind = FrameType(covered[:2])
    except ValueError:
        kind = FrameType.UNKNOWN
    return Frame(kind, covered, base64.b64decode(window[54:62]), sub_code, binary)


class FrameReader:
    """Bytes in, frames out; no input whatever makes it raise.

    What is not a frame is dropped up to the next "*", so that the first whole
    frame after any noise is found as soon as its last byte is in.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self._garbage_bytes = 0

    def feed(self, data: bytes) -> list[Frame | None]:
        """Return what became complete with `data`, in order: frames, and None for each bad one.

        Bytes outside of any frame count as one bad frame for every 64 begun.
        """
        self._held += data
        items: list[Frame | None] = []
        while len(self._held) >= FRAME_BYTES:
            window = bytes(self._held[:FRAME_BYTES])
            if window.startswith(_START) and window.endswith(_END):
                items.append(_parse(window))
                self._garbage_bytes = 0
                del self._held[:FRAME_BYTES]
            else:
                items.extend(self._resynchronise())
        return items

    def _resynchronise(self) -> list[None]:
        start = self._held.find(b"*", 1)
        dropped = len(self._held) if start < 0 else start
        del self._held[:dropped]
        # NB: ekeyd counts an error per false start, so that one burst of "*" is many of
        # them. Here a bad frame is a frame's worth of garbage, whatever it is made of.
        counted = -(-self._garbage_bytes // FRAME_BYTES)
        self._garbage_bytes += dropped
        return [None] * (-(-self._garbage_bytes // FRAME_BYTES) - counted)
