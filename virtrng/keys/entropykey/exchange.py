# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pairing: the host's end of the exchange that gives an Entropy Key a new long-term key.

    ^C ─► S!    which key it is; the zero key is in force
    M  ─► M>    the MAC, under the master key, of the nonce to come
    L  ─► L!    the nonce, and the key's own entropy: both derive the long-term key
          l>    or it refuses, and keeps the long-term key it had

Source: README.protocol of ekeyd 1.1.5 and its host/ekey-setkey.c, which waits
for L! without limit and does not look at its sub-code.
"""

import base64
import math
import time
from collections.abc import Callable

from virtrng.errors import (
    KeyFault,
    KeySelfStopped,
    KeySilent,
    KeyTrouble,
    PairingLocked,
    PairingUnfinished,
    WrongMasterKey,
)
from virtrng.keys.entropykey.driver import PROTOCOL_VERSION, WRITE_TIMEOUT_MS
from virtrng.keys.entropykey.frames import FRAME_BYTES, Frame, FrameReader, FrameType
from virtrng.keys.entropykey.pairing import long_term_key, nonce_mac
from virtrng.keys.entropykey.session import ENTROPY_BYTES, RESET, SERIAL_BYTES, ZERO_KEY, Session, urandom
from virtrng.transport.base import Transport

NONCE_BYTES = 12  # as ekey-setkey's

RESET_S = 2.0  # for each ^C, as the driver
RESETS_MAX = 5
ANSWER_S = 5.0  # for M>, and for L!; whatever the key had to say before comes first

_LOCKED_OUT = "Long-term rekey locked-out"
_WRONG_MAC = "Nonce MAC does not match"
_REFUSALS = (FrameType.LONG_TERM_REFUSED, FrameType.GENERATORS_BAD, FrameType.UNEXPECTED_INPUT)


class Pairing:
    """One exchange with one key: `identify`, `unlock` and `rekey`, in this order.

    Until `rekey` nothing changes in the key. `serial` is the expected one, where
    it is known beforehand; `clock` counts seconds. Frames that do not verify are
    dropped, and every wait has an end. What the transport raises passes through.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        serial: str = "",
        clock: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = urandom,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._random_bytes = random_bytes
        self._reader = FrameReader()
        self._waiting: list[Frame | None] = []
        self._session = Session(bytes(SERIAL_BYTES), ZERO_KEY)
        self._serial = b""
        self._nonce = b""
        self._master_key = b""
        self.serial = serial

    def identify(self) -> str:
        """Reset the key and return the serial that it reports; takes 10 s at most.

        Raises KeySilent if no S! comes, KeyFault for another serial or protocol
        version than expected.
        """
        for _ in range(RESETS_MAX):
            self._transport.write(RESET, WRITE_TIMEOUT_MS)
            until_s = self._clock() + RESET_S
            while (arrived := self._arrived(until_s)) is not None:
                if self._identifies(arrived):
                    return self.serial
        raise KeySilent(self._transport.key, round(RESETS_MAX * RESET_S * 1000))

    def unlock(self, master_key: bytes) -> None:
        """Say that a nonce will come, authenticated with `master_key`; the key does not judge it yet.

        Raises KeyFault if it does not answer in time, or by something else.
        """
        self._master_key = master_key
        self._nonce = self._random_bytes(NONCE_BYTES)
        mac = base64.b64encode(nonce_mac(self._serial, master_key, self._nonce))
        self._transport.write(b"M" + mac, WRITE_TIMEOUT_MS)
        answer = self._answer("M", FrameType.NONCE_MAC_STORED)
        if answer.type is not FrameType.NONCE_MAC_STORED:
            raise self._refusal("M", answer)

    def rekey(self) -> bytes:
        """Have the key make a new long-term key, and return it: 32 bytes.

        Raises WrongMasterKey, PairingLocked, KeySelfStopped or KeyFault when the
        key refuses, and PairingUnfinished when it is not known whether it did.
        """
        try:
            self._transport.write(b"L" + base64.b64encode(self._nonce) + b".", WRITE_TIMEOUT_MS)
            answer = self._answer("L", FrameType.LONG_TERM_REKEY)
        except KeyTrouble as trouble:
            raise PairingUnfinished(self.serial, str(trouble)) from trouble
        if answer.type is not FrameType.LONG_TERM_REKEY:
            raise self._refusal("L", answer)
        if answer.sub_code != len(self._nonce) or len(answer.binary) != ENTROPY_BYTES:
            raise PairingUnfinished(self.serial, "it did not receive the nonce whole")
        return long_term_key(self._serial, self._master_key, self._nonce, answer.binary)

    def _identifies(self, frame: Frame) -> bool:
        """Whether this is the S! that answers ^C, under its own MAC; then it is remembered."""
        if frame.type is not FrameType.SERIAL_NUMBER or len(frame.binary) != SERIAL_BYTES:
            return False
        session = Session(frame.binary, ZERO_KEY)
        if not session.verifies(frame):
            return False
        serial = base64.b64encode(frame.binary).decode("ascii")
        if frame.sub_code != PROTOCOL_VERSION:
            what = f"it speaks version {frame.sub_code} of its protocol, and only {PROTOCOL_VERSION} is known"
            raise KeyFault(self._transport.key, what)
        if self.serial not in ("", serial):
            raise KeyFault(self._transport.key, f"it reports the serial {serial} instead of {self.serial}")
        self._session, self._serial, self.serial = session, frame.binary, serial
        return True

    def _answer(self, command: str, wanted: FrameType) -> Frame:
        """Wait for the verified answer to `command`, or a refusal; all other frames are passed over."""
        until_s = self._clock() + ANSWER_S
        heard = False
        while (frame := self._arrived(until_s)) is not None:
            if self._session.verifies(frame):
                if frame.type is wanted or frame.type in _REFUSALS:
                    return frame
                heard = True
        if heard:
            what = f"it did not answer the command {command} within {ANSWER_S:g} s"
            raise KeyFault(self._transport.key, what)
        raise KeySilent(self._transport.key, round(ANSWER_S * 1000))

    def _refusal(self, command: str, frame: Frame) -> KeyTrouble:
        if frame.type is FrameType.GENERATORS_BAD:
            return KeySelfStopped(self._transport.key, "?", "its generators failed")
        if frame.type is FrameType.UNEXPECTED_INPUT:
            return KeyFault(self._transport.key, f"it did not understand the command {command}")
        if frame.text == _WRONG_MAC:
            return WrongMasterKey(self.serial)
        if frame.text == _LOCKED_OUT:
            return PairingLocked(self.serial)
        return KeyFault(self._transport.key, f"it refuses to be paired: '{frame.text}'")

    def _arrived(self, until_s: float) -> Frame | None:
        """Return the next well-formed frame, or None if none came in time."""
        while True:
            while self._waiting:
                item = self._waiting.pop(0)
                if item is not None:
                    return item
            left_s = until_s - self._clock()
            if left_s <= 0:
                return None
            data = self._transport.read(FRAME_BYTES, max(1, math.ceil(left_s * 1000)))
            self._waiting = list(self._reader.feed(data))
