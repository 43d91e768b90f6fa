# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the Entropy Key and its host derive from a secret, and one session of theirs.

Every derivation is keyed with the key's serial, so that no two keys share one.

Source: README.protocol of ekeyd 1.1.5 and its host/connection.c; the strings
are those of device/skeinwrap.c.
"""

import base64
import hmac
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

from virtrng.keys.entropykey.frames import Frame, FrameType, assemble, binary_frame, encode_sub_code
from virtrng.keys.entropykey.lanes import LANES_MAX, final_pads, finals
from virtrng.keys.entropykey.skein import prepare

SERIAL_BYTES = 12
SECRET_BYTES = 32
ENTROPY_BYTES = 32
ZERO_KEY = bytes(SECRET_BYTES)
LAST_SEQUENCE = 4095
PADS_AHEAD = LANES_MAX  # out of 4096 in a session

RESET = b"\x03"  # ^C: accepted in any state, answered by S!

_URANDOM = Path("/dev/urandom")


def _string(name: str) -> bytes:
    return f"20090609 support@simtec.co.uk EntropyKey/v1/{name}".ljust(96).encode("ascii")


class Personalisation(Enum):
    """The strings that keep the derivations apart.

    NB: only the first 64 of the 96 characters count (see skein.prepare), so the
    two authentication states are one and the same function.
    """

    REKEYING = _string("ReKeyingState")
    AUTHENTICATION = _string("MessageAuthenticationCodeState")
    ENCRYPTION = _string("EntropyEncryptionState")
    LONG_TERM_REKEYING = _string("LongTermReKeyingState")
    LONG_TERM_AUTHENTICATION = _string("MessageAuthenticationCodeStateForLongTermReKeying")


def urandom(size: int) -> bytes:
    """Return `size` bytes, at most 256, of /dev/urandom, opened as a file.

    Unlike getrandom, and os.urandom on top of it, the file never waits for the
    pool to be initialised, which is what this program is there to bring about.
    """
    with _URANDOM.open("rb", buffering=0) as device:
        return device.read(size)


def truncate(mac: bytes) -> bytes:
    """Return the 6 of a MAC's 32 bytes that go over the wire: the first three and the last three."""
    return mac[:3] + mac[-3:]


def session_key(serial: bytes, long_term_key: bytes, nonce: bytes, device_entropy: bytes) -> bytes:
    """Return the 32-byte key of the session that K with `nonce` and K! with `device_entropy` begin."""
    return prepare(serial, long_term_key, Personalisation.REKEYING.value).final(device_entropy + nonce)


def rekey_command(nonce: bytes) -> bytes:
    """Return the command that asks for a new session, to be sent as one transfer."""
    return b"K" + base64.b64encode(nonce) + b"."


class Session:
    """The states made from one session key, and the sequence number that it has reached.

    Both ends use it; `keyed` is false for the zero key, which is in force
    after a reset and which anyone knows: no entropy comes under it.
    """

    def __init__(self, serial: bytes, secret: bytes) -> None:
        self.keyed = secret != ZERO_KEY
        self._authentication = prepare(serial, secret, Personalisation.AUTHENTICATION.value)
        self._encryption = prepare(serial, secret, Personalisation.ENCRYPTION.value)
        self._sequence = -1
        # A MAC depends on the covered bytes alone, a pad on the number alone: what is kept is never wrong.
        self._macs: dict[bytes, bytes] = {}
        self._pads: dict[int, bytes] = {}

    def frame(self, covered: bytes) -> bytes:
        """Return the whole frame, as the key sends it, around the 52 bytes of `covered`."""
        return assemble(covered, truncate(self._authentication.final_pad(covered)))

    def verifies(self, frame: Frame, batch: Iterable[Frame | None] = ()) -> bool:
        """Return whether the frame's MAC is that of this session; the comparison is constant-time.

        `batch` is what arrived with the frame: the MACs of all that are computed
        at once, and kept until a frame comes that was not among it.
        """
        if frame.covered not in self._macs:
            self._macs = self._macs_of([frame.covered, *(each.covered for each in batch if each is not None)])
        return hmac.compare_digest(frame.mac, self._macs[frame.covered])

    def encrypt(self, sequence: int, plain: bytes) -> bytes:
        """Return what the MAC covers of the E frame that carries 32 bytes of entropy."""
        return binary_frame(FrameType.ENTROPY, sequence, self._xor_pad(sequence, plain))

    def decrypt(self, frame: Frame) -> bytes | None:
        """Return the 32 bytes in a verified E frame, None if they are not 32, not new, or not secret.

        Sequence numbers must rise, so that no frame counts twice. They may
        begin at 0 or at 1 (keys are thought to do either), and leave out those
        of frames that were lost.
        """
        if not self.keyed or len(frame.binary) != ENTROPY_BYTES or frame.sub_code <= self._sequence:
            return None
        self._sequence = frame.sub_code
        return self._xor_pad(frame.sub_code, frame.binary)

    def _macs_of(self, covered: list[bytes]) -> dict[bytes, bytes]:
        different = list(dict.fromkeys(covered))
        # A single lane takes a third longer than the plain way.
        if len(different) == 1:
            hashes = [self._authentication.final_pad(different[0])]
        else:
            hashes = final_pads(self._authentication, different)
        return {each: truncate(mac) for each, mac in zip(different, hashes, strict=True)}

    def _xor_pad(self, sequence: int, block: bytes) -> bytes:
        if sequence not in self._pads:
            ahead = range(sequence, min(sequence + PADS_AHEAD, LAST_SEQUENCE + 1))
            pads = finals(self._encryption, [encode_sub_code(number) for number in ahead])
            self._pads = dict(zip(ahead, pads, strict=True))
        pad = int.from_bytes(self._pads[sequence], "little")
        return (int.from_bytes(block, "little") ^ pad).to_bytes(ENTROPY_BYTES, "little")
