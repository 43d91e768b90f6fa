# SPDX-License-Identifier: LGPL-2.1-or-later
"""A simulated Entropy Key: its firmware as a state machine, and an in-process way to it.

The firmware takes packets and a time, and gives bytes; it owns no clock, no
thread and no file, so that the same one serves in process, on a pty and over
USB/IP.

Source: README.protocol, README.security and README.FreeBSD of ekeyd 1.1.5, for
the firmware itself was never published.
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable

from virtrng.errors import KeyLost
from virtrng.keys.entropykey.frames import (
    FRAME_BYTES,
    SUB_CODE_MAX,
    FrameType,
    binary_frame,
    text_frame,
)
from virtrng.keys.entropykey.pairing import crc8, nonce_mac
from virtrng.keys.entropykey.pairing import long_term_key as derived_long_term_key
from virtrng.keys.entropykey.session import (
    ENTROPY_BYTES,
    LAST_SEQUENCE,
    RESET,
    SECRET_BYTES,
    ZERO_KEY,
    Session,
    session_key,
    urandom,
)
from virtrng.keys.entropykey.telemetry import HEALTHY
from virtrng.sim.firmware import Firmware

SERIAL = "SIMULATED+KEY/01"

# README.security: a FIPS 140-2 block of 20000 bits yields 78 packets of 32 bytes.
# README.FreeBSD: 1.61 blocks a second, measured on a real key.
BLOCK_FRAMES = 78
BLOCK_S = 0.62
RATE_BYTES_PER_S = BLOCK_FRAMES * ENTROPY_BYTES / BLOCK_S

# One I frame in 5 blocks is one in 3.1 s; README.FreeBSD's sample comes to one in 3.3 s.
_BLOCKS_PER_INFORMATION = 5
# A host that does not read stops the key; so many blocks wait in its buffer (assumed).
_BUFFER_BYTES = 2 * BLOCK_FRAMES * FRAME_BYTES
_NONCE_CHARACTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
_NONCE_CHARACTERS_MAX = SUB_CODE_MAX // 3 * 4
_MAC_CHARACTERS = 8  # of 6 bytes, and M ends with the last of them
# The figures of README.protocol's captured frames.
_TEMPERATURE_AND_VOLTAGE = "T03143 V03254"
_STATISTICS = "S08052:23751:23792:23584:07112:20876:08063:24150:"


def seeded_noise(seed: bytes) -> Callable[[int], bytes]:
    """Return a source of bytes that nobody who lacks the 32-byte seed can tell from noise."""
    stream = 0

    def noise(size: int) -> bytes:
        nonlocal stream
        stream += 1
        return hashlib.shake_256(seed + stream.to_bytes(8, "little")).digest(size)

    return noise


def master_key_card(master_key: bytes) -> str:
    """Return the 44 characters on the card that comes with a key, the check byte in them."""
    return base64.b64encode(master_key + bytes((crc8(master_key),))).decode("ascii")


def derived(seed: str, purpose: str) -> bytes:
    """Return 32 bytes that depend on both, for seeded_noise or as a secret of a simulated key."""
    return hashlib.sha256(f"{purpose}: {seed}".encode()).digest()


class SimulatedEntropyKey:
    """The firmware of one key, switched on at `now_s` seconds of its caller's clock.

    `noise` is what it encrypts, 32 bytes a frame; `device_entropy` is its part
    of each session key and of each new long-term key, which `remember` is told.
    Without a `master_key` it has one that nobody knows. Not for use by two
    threads at once.
    """

    _badness = HEALTHY

    def __init__(
        self,
        *,
        long_term_key: bytes,
        now_s: float,
        serial: str = SERIAL,
        rate_bytes_per_s: float = RATE_BYTES_PER_S,
        noise: Callable[[int], bytes] | None = None,
        device_entropy: Callable[[int], bytes] = urandom,
        master_key: bytes | None = None,
        remember: Callable[[bytes], object] = lambda _: None,
    ) -> None:
        self.serial = serial
        self._serial = base64.b64decode(serial, validate=True)
        self._long_term_key = long_term_key
        self._master_key = master_key or urandom(SECRET_BYTES)
        self._remember = remember
        self._noise = noise or seeded_noise(urandom(SECRET_BYTES))
        self._device_entropy = device_entropy
        # A slow key gives smaller blocks, not rarer ones: the host waits 2 s for any.
        self._block_frames = min(BLOCK_FRAMES, max(1, round(rate_bytes_per_s * BLOCK_S / ENTROPY_BYTES)))
        self._block_s = self._block_frames * ENTROPY_BYTES / rate_bytes_per_s
        # A fast key asks for a session no more often than a real one: ekeyd resets it when K! is not there
        # at the sixth time.
        self._blocks_per_request = max(1, round(BLOCK_S / self._block_s))
        self._next_block_s = now_s + self._block_s
        self._blocks_tested = 0
        self._due = bytearray()
        self._reset()

    @property
    def next_due_s(self) -> float:
        """When, by the caller's clock, the next block is due."""
        return self._next_block_s

    @property
    def unplugged(self) -> bool:
        """Whether it has gone; this one stays."""
        return False

    def plug_in(self, now_s: float) -> None:
        """Begin anew, as a key that gets power; it still knows its long-term key."""
        self._next_block_s = now_s + self._block_s
        self._due.clear()
        self._reset()

    def advance(self, now_s: float) -> None:
        """Do whatever is due up to `now_s`; blocks that find the buffer full are lost."""
        while self._next_block_s <= now_s:
            if len(self._due) >= _BUFFER_BYTES:
                missed = (now_s - self._next_block_s) // self._block_s + 1
                self._next_block_s += missed * self._block_s
            else:
                self._block()
                self._next_block_s += self._block_s

    def take(self, size: int) -> bytes:
        """Return up to `size` of the bytes that wait for the host."""
        taken = bytes(self._due[:size])
        del self._due[:size]
        return taken

    def receive(self, packet: bytes) -> None:
        """Take one packet of the host's; after an unknown byte the rest of it is dropped."""
        for byte in packet:
            if not self._character(byte):
                self._verb = b""
                self._send(text_frame(FrameType.UNEXPECTED_INPUT, f"Unknown Input Character 0x{byte:02x}"))
                return

    def fail(self, badness: str) -> None:
        """Stop for good, as after a failed test of its own; a reset does not end it."""
        self._badness = badness

    # --- what faults change

    def _transmit(self, frame: bytes) -> None:
        """Put a frame on the wire."""
        self._due += frame

    def _send_serial_number(self) -> None:
        """Answer a reset."""
        self._send(binary_frame(FrameType.SERIAL_NUMBER, 0, self._serial))

    def _generators_failed(self) -> bool:
        """Whether B> answers the K or L that just came."""
        return self._badness != HEALTHY

    def _reported_length(self, nonce_bytes: int) -> int:
        """Return the length of nonce that K! or L! says has come."""
        return nonce_bytes

    def _frames(self) -> int:
        """Return how many E frames the block that was just finished gives."""
        return self._block_frames

    # --- commands

    def _send(self, covered: bytes) -> None:
        self._transmit(self._session.frame(covered))

    def _reset(self) -> None:
        self._session = Session(self._serial, ZERO_KEY)
        self._sequence = 0
        self._blocks_since_reset = 0
        self._blocks_unsent = 0
        self._verb = b""  # of the command that is on its way
        self._characters = bytearray()
        self._unlocked_by: bytes | None = None  # the MAC of the last M
        self._send_serial_number()

    def _character(self, byte: int) -> bool:
        """Take one byte of a command; False if it is none."""
        if byte == RESET[0] or (not self._verb and byte in b"Rr"):
            self._reset()
        elif not self._verb:
            self._verb = bytes((byte,)).upper()
            self._characters.clear()
            return self._verb in (b"K", b"M", b"L")
        elif byte not in _NONCE_CHARACTERS:
            return byte == ord(".") and self._verb != b"M" and self._nonce_ended()
        elif self._verb == b"M":
            return byte != ord("=") and self._mac_character(byte)
        else:
            self._characters.append(byte)
            # What a real key does with one that is too long is not known.
            return len(self._characters) <= _NONCE_CHARACTERS_MAX
        return True

    def _mac_character(self, byte: int) -> bool:
        self._characters.append(byte)
        if len(self._characters) == _MAC_CHARACTERS:
            self._verb = b""
            self._unlocked_by = base64.b64decode(self._characters)
            self._send(text_frame(FrameType.NONCE_MAC_STORED, "Long-term rekey unlocked"))
        return True

    def _nonce_ended(self) -> bool:
        """Answer K or L; False if its nonce is none (what a real key does then is not known)."""
        try:
            nonce = base64.b64decode(self._characters, validate=True)
        except (ValueError, binascii.Error):
            return False
        verb, self._verb = self._verb, b""
        if verb == b"L" and (refusal := self._refusal(nonce)):
            self._send(text_frame(FrameType.LONG_TERM_REFUSED, refusal))
        elif self._generators_failed():
            # NB: the text of a real key's B> is not known, nor whether it answers L; hosts ignore the text.
            self._send(text_frame(FrameType.GENERATORS_BAD, "Generators bad. Re-key abandoned."))
        else:
            rekey = self._long_term_rekey if verb == b"L" else self._session_rekey
            rekey(nonce, self._device_entropy(SECRET_BYTES))
        return True

    def _refusal(self, nonce: bytes) -> str:
        """Return why L with this nonce is refused, empty if it is not; either way it wants another M next."""
        # How long a real key stays unlocked is not known; this is the least that serves ekey-setkey.
        unlocked_by, self._unlocked_by = self._unlocked_by, None
        if unlocked_by is None:
            return "Long-term rekey locked-out"
        expected = nonce_mac(self._serial, self._master_key, nonce)
        return "" if hmac.compare_digest(unlocked_by, expected) else "Nonce MAC does not match"

    def _session_rekey(self, nonce: bytes, entropy: bytes) -> None:
        length = self._reported_length(len(nonce))
        self._send(binary_frame(FrameType.SESSION_REKEY, length, entropy))
        self._session = Session(self._serial, session_key(self._serial, self._long_term_key, nonce, entropy))
        self._sequence = 0
        self._blocks_unsent = 0

    def _long_term_rekey(self, nonce: bytes, entropy: bytes) -> None:
        """Take another long-term key; the session that is under way keeps its own (assumed)."""
        length = self._reported_length(len(nonce))
        self._send(binary_frame(FrameType.LONG_TERM_REKEY, length, entropy))
        self._long_term_key = derived_long_term_key(self._serial, self._master_key, nonce, entropy)
        self._remember(self._long_term_key)

    # --- blocks

    def _block(self) -> None:
        """Do what a finished block of 20000 bits brings about."""
        failed = self._badness != HEALTHY
        blocks_a_turn = _BLOCKS_PER_INFORMATION * self._blocks_per_request
        turn, blocks_after = divmod(self._blocks_since_reset, blocks_a_turn)
        if failed or blocks_after == 0:
            self._information(turn)
        self._blocks_since_reset += 1
        if failed:
            return
        self._blocks_tested += 1
        if not self._session.keyed or self._sequence > LAST_SEQUENCE:
            if self._blocks_unsent % self._blocks_per_request == 0:
                self._send(
                    text_frame(FrameType.BLOCK_READY, "Unable to send entropy. Please re-key session.")
                )
            self._blocks_unsent += 1
            return
        for _ in range(min(self._frames(), LAST_SEQUENCE + 1 - self._sequence)):
            self._send(self._session.encrypt(self._sequence, self._noise(ENTROPY_BYTES)))
            self._sequence += 1

    def _information(self, turn: int) -> None:
        """Send the next I frame of three in rotation, statistics first; only these if failed."""
        # Statistics first, for ekeyd's 'stats' command fails before it has seen some.
        texts = (
            f"{_STATISTICS}{self._badness}",
            _TEMPERATURE_AND_VOLTAGE,
            f"F{self._blocks_tested % 100000:05}:00000:00000:00000:00000",
        )
        self._send(text_frame(FrameType.INFORMATION, texts[0 if self._badness != HEALTHY else turn % 3]))


class SimulatedTransport:
    """The way to a simulated key in the same process; implements transport.base.Transport.

    `clock` counts seconds, as the firmware's does, and `sleep` lets them pass.
    """

    simulated = True

    def __init__(
        self,
        firmware: Firmware,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._firmware = firmware
        self._clock = clock
        self._sleep = sleep
        self._closed = False

    @property
    def key(self) -> str:
        """The key's name for messages."""
        return f"entropykey:serial={self._firmware.serial}"

    def read(self, size: int, timeout_ms: int) -> bytes:
        """Return the next 1 to `size` bytes, or b"" if none came within `timeout_ms`.

        Raises KeyLost after close(), and when the key is unplugged.
        """
        self._refuse_lost("being read")
        until_s = self._clock() + timeout_ms / 1000
        while True:
            now_s = self._clock()
            self._firmware.advance(now_s)
            self._refuse_lost("being read")
            taken = self._firmware.take(size)
            if taken or now_s >= until_s:
                return taken
            self._sleep(min(until_s, self._firmware.next_due_s) - now_s)

    def write(self, data: bytes, timeout_ms: int) -> None:  # noqa: ARG002  nothing to wait for
        """Hand `data` over as one packet; raises KeyLost after close(), and when the key is unplugged."""
        self._firmware.advance(self._clock())
        self._refuse_lost("being written to")
        self._firmware.receive(data)

    def close(self) -> None:
        """End it; a second call does nothing."""
        self._closed = True

    def _refuse_lost(self, doing: str) -> None:
        if self._closed or self._firmware.unplugged:
            raise KeyLost(self.key, doing)


def simulated(
    serial: str = SERIAL,
    *,
    rate_bytes_per_s: float = RATE_BYTES_PER_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[SimulatedTransport, bytes]:
    """Return the way to a simulated key that was just plugged in, and its long-term key."""
    long_term_key = urandom(SECRET_BYTES)
    firmware = SimulatedEntropyKey(
        long_term_key=long_term_key, now_s=clock(), serial=serial, rate_bytes_per_s=rate_bytes_per_s
    )
    return SimulatedTransport(firmware, clock=clock, sleep=sleep), long_term_key
