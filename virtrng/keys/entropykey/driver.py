# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Entropy Key's driver: the host's end of its protocol, on top of any transport.

    ^C ─► INIT ── S! ─► SETTLING ── quiet / K ─► SESSION_SENT ── K! ─► KEYED_FIRST ── any verified ─► KEYED
                                                      ▲                                                │
                                                      └────────────── k>, or E! 4095 / K ──────────────┘

The states have the names of ekeyd's, but SETTLING. Where this driver differs: it asks first
instead of waiting for a frame, verifies the S! itself, refuses replayed E
frames, and drops a bad frame instead of resetting the key for each.

Source: README.protocol of ekeyd 1.1.5 and its host/connection.c.
"""

import base64
import logging
import math
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto

from virtrng.errors import KeyFault, KeySelfStopped, KeySilent, KeyTrouble, WrongLongTermKey
from virtrng.keys.base import Noise
from virtrng.keys.entropykey.frames import FRAME_BYTES, Frame, FrameReader, FrameType
from virtrng.keys.entropykey.session import (
    ENTROPY_BYTES,
    LAST_SEQUENCE,
    RESET,
    SERIAL_BYTES,
    ZERO_KEY,
    Session,
    rekey_command,
    session_key,
    urandom,
)
from virtrng.keys.entropykey.telemetry import HEALTHY, Counters, Telemetry, meaning
from virtrng.transport.base import Transport

_log = logging.getLogger(__name__)

PROTOCOL_VERSION = 0
NONCE_RANDOM_BYTES = 8  # after a count of 4; ekeyd's host/nonce.c

PATIENCE_S = 2.0  # without one good frame; a block of 78 comes every 0.62 s
# What waited in the key before ^C comes at once, and a k> that belongs to the new state after a block's time.
QUIET_S = 0.25
RESETS_MAX = 5  # in a row, without one good E frame between them
BAD_FRAMES_MAX = 8  # in a row
FIRST_FAILURES_MAX = 2  # first frames after K! that fail their MAC, in a row
# I frames come about every 3.3 s (README.FreeBSD of ekeyd 1.1.5: 478 of others than E in 1432 s).
REASON_PATIENCE_S = 5.0
# A k> may have been under way when K was sent; the second one has not. ekeyd resets after 5.
BLOCKS_PER_REKEY = 2
BLOCKS_IGNORED_MAX = 5
WRITE_TIMEOUT_MS = 1000  # 18 bytes on an idle full-speed bus take far less than one


class _State(Enum):
    INIT = auto()  # ^C is sent, S! awaited
    SETTLING = auto()  # S! is there, perhaps one from before ^C: K waits until nothing more comes
    SESSION_SENT = auto()  # K is sent, K! awaited
    KEYED_FIRST = auto()  # K! is there; no frame has verified under its key yet
    KEYED = auto()
    FAILED = auto()  # B> was seen, its reason is awaited


_BEFORE_SESSION = (_State.INIT, _State.SETTLING)


class EntropyKey:
    """One Entropy Key in use; see keys.base.Key for the contract of its methods.

    `long_term_key` turns the serial that the key reports into its long-term
    key, and may raise; `keyring` is what messages call the place it looks in.
    `serial` is the expected one, where it is known beforehand. `clock` counts
    seconds and `random_bytes` makes the nonces; neither may block. `read_bytes`
    is asked of the transport at once while a session runs: on USB a read waits
    until it is full, so that it should take well under PATIENCE_S to fill.
    """

    _state: _State

    def __init__(
        self,
        transport: Transport,
        long_term_key: Callable[[str], bytes],
        *,
        min_entropy: float,
        keyring: str = "the keyring",
        serial: str = "",
        clock: Callable[[], float] = time.monotonic,
        random_bytes: Callable[[int], bytes] = urandom,
        read_bytes: int = FRAME_BYTES,
    ) -> None:
        self._transport = transport
        self._look_up = long_term_key
        self._min_entropy = min_entropy
        self._keyring = keyring
        self._expected_serial = serial
        self._clock = clock
        self._random_bytes = random_bytes
        self._read_bytes = read_bytes
        self._serial = ""
        self._nonces = 0
        self._frames_ok = self._frames_bad = self._resets = self._sessions = 0
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._trouble: KeyTrouble | None = None
        self._reader = FrameReader()
        self._telemetry = Telemetry()
        self._session = self._previous = Session(bytes(SERIAL_BYTES), ZERO_KEY)
        self._long_term_key = b""
        self._nonce = b""
        self._rekeys_open = 0  # K sent, and not answered yet
        self._blocks_ignored = 0
        self._first_failures = 0
        self._resets_in_row = 0
        self._resets_since_s = self._mark_s = self._clock()
        self._heard_in_row = False
        self._quiet_s = 0.0
        self._enter(_State.INIT)

    @property
    def serial(self) -> str:
        """The serial that the key itself reported; empty before start()."""
        return self._serial

    @property
    def simulated(self) -> bool:
        """Whether nothing it delivers may be credited."""
        return self._transport.simulated

    @property
    def counters(self) -> Counters:
        """What was seen so far."""
        return Counters(self._frames_ok, self._frames_bad, self._resets, self._sessions, self._telemetry)

    def start(self) -> None:
        """Reset the key, learn its serial, and ask for the first session; takes 10 s at most.

        May be called again after any KeyTrouble but KeyLost. Raises KeySilent if
        no S! comes, KeyFault for another serial or protocol version than
        expected, whatever `long_term_key` raises, and what the transport does.
        """
        self._begin_anew()
        with self._remembering_trouble():
            self._reset("start")
            while self._state in _BEFORE_SESSION:
                self._step(math.inf)

    def read(self, timeout_ms: int) -> Noise | None:
        """Return the noise of the E frames that one read brought, None if none came in time.

        What fails its MAC, or comes again, is dropped and counted. After 8 such
        frames in a row, or 2 s of waiting without a good one, the key is reset
        and a new session asked for, all by itself.

        Raises WrongLongTermKey when the first frame after K! fails its MAC twice:
        whoever owns the driver then waits 30 s before start(), for a key that
        was paired elsewhere stays so. Raises KeySelfStopped at once when the key
        reports a failure, KeySilent or KeyFault when 5 resets in a row brought
        no noise, and what the transport does. It raises the same again until start().
        """
        if self._trouble is not None:
            raise self._trouble
        self._mark_s = self._clock()
        until_s = self._mark_s + timeout_ms / 1000
        with self._remembering_trouble():
            while True:
                noise = self._step(until_s)
                if noise:
                    claimed_bits = math.floor(8 * len(noise) * self._min_entropy)
                    return Noise(self._transport.key, noise, claimed_bits)
                if self._clock() >= until_s:
                    return None

    def close(self) -> None:
        """Give the transport back; a second call does nothing."""
        self._transport.close()

    @contextmanager
    def _remembering_trouble(self) -> Iterator[None]:
        try:
            yield
        except KeyTrouble as trouble:
            self._trouble = trouble
            raise

    def _step(self, until_s: float) -> bytes:
        """Do what one read of the transport asks for, and return the noise in it."""
        patience_s = REASON_PATIENCE_S if self._state is _State.FAILED else PATIENCE_S
        wait_s = min(until_s - self._mark_s, patience_s - self._waited_s)
        if self._state is _State.SETTLING:
            wait_s = min(wait_s, QUIET_S - self._quiet_s)
        size = self._read_bytes if self._state is _State.KEYED else FRAME_BYTES  # else it answers at once
        # NB: 1 ms at least, for 0 means for ever to libusb.
        arrived = self._transport.read(size, max(1, math.ceil(wait_s * 1000)))
        # Only time that somebody spent waiting counts: a feeder may well pause for longer.
        now_s = self._clock()
        self._waited_s += now_s - self._mark_s
        self._quiet_s = 0.0 if arrived else self._quiet_s + now_s - self._mark_s
        self._mark_s = now_s
        batch = self._reader.feed(arrived)
        noise = b"".join([self._take(item, batch) for item in batch])
        if self._state is _State.SETTLING and max(self._quiet_s / QUIET_S, self._waited_s / patience_s) >= 1:
            self._ask_for_session()
        elif self._waited_s >= patience_s:
            self._lose_patience()
        return noise

    def _lose_patience(self) -> None:
        if self._state is _State.FAILED:
            raise KeySelfStopped(self._transport.key, "?", "its generators failed, and it did not say why")
        self._reset("no good frame for 2 s")

    def _take(self, item: Frame | None, batch: Sequence[Frame | None]) -> bytes:
        """Return the noise in one item of a read's batch, empty for all but a new E frame."""
        if self._state in _BEFORE_SESSION:
            self._await_serial_number(item)
            return b""
        if item is None or not self._session.verifies(item, batch):
            self._reject(item)
            return b""
        if self._state is _State.KEYED_FIRST:
            self._state = _State.KEYED
        if self._session.keyed:
            self._first_failures = 0
        noise = self._accept(item)
        if noise is None:
            self._count_bad()
            return b""
        self._frames_ok += 1
        self._heard_in_row = True
        self._bad_in_row = 0
        if self._state is not _State.FAILED:
            self._waited_s = 0.0
        return noise

    def _accept(self, frame: Frame) -> bytes | None:
        """Act on a verified frame and return its noise; None if it counts as a bad one all the same."""
        match frame.type:
            case FrameType.INFORMATION:
                return self._information(frame)
            case _ if self._state is _State.FAILED:
                return b""
            case FrameType.ENTROPY:
                return self._entropy(frame)
            case FrameType.BLOCK_READY:
                return self._block_ready()
            case FrameType.SESSION_REKEY:
                return self._session_rekey(frame)
            case FrameType.GENERATORS_BAD:
                self._enter(_State.FAILED)
                return b""
            case FrameType.UNEXPECTED_INPUT:
                self._reset("it met unexpected input")
                return None
            case FrameType.SERIAL_NUMBER:
                return b""  # of an earlier ^C: under the zero key it changes nothing
            case _:
                return None

    def _reject(self, item: Frame | None) -> None:
        """Count a frame that did not verify, and draw the conclusion that is due."""
        # A frame of the session before K! is a duplicate, and says nothing about the new key.
        if item is None or self._state is not _State.KEYED_FIRST or self._previous.verifies(item):
            self._count_bad()
            return
        self._frames_bad += 1
        self._first_failures += 1
        if self._first_failures >= FIRST_FAILURES_MAX:
            raise WrongLongTermKey(self._serial, self._keyring)
        self._reset("the first frame after K! failed its MAC")

    def _count_bad(self) -> None:
        self._frames_bad += 1
        self._bad_in_row += 1
        if self._bad_in_row >= BAD_FRAMES_MAX and self._state is not _State.FAILED:
            self._reset("8 bad frames in a row")

    # --- one frame each

    def _await_serial_number(self, item: Frame | None) -> None:
        """Learn the serial if this is an S!, the last of which answers ^C; no other frame counts yet."""
        if item is not None and item.type is not FrameType.SERIAL_NUMBER:
            settling = self._state is _State.SETTLING
            if settling and item.type is FrameType.INFORMATION and self._session.verifies(item):
                self._information(item)
            return
        if item is None or len(item.binary) != SERIAL_BYTES:
            self._frames_bad += 1
            return
        session = Session(item.binary, ZERO_KEY)
        if not session.verifies(item):
            self._frames_bad += 1
            return
        self._frames_ok += 1
        self._heard_in_row = True
        self._check_identity(item)
        self._session = self._previous = session
        if not self._long_term_key:
            self._long_term_key = self._look_up(self._serial)
        if self._state is _State.INIT:
            self._enter(_State.SETTLING)

    def _check_identity(self, frame: Frame) -> None:
        serial = base64.b64encode(frame.binary).decode("ascii")
        if frame.sub_code != PROTOCOL_VERSION:
            what = f"it speaks version {frame.sub_code} of its protocol, and only {PROTOCOL_VERSION} is known"
            raise KeyFault(self._transport.key, what)
        expected = self._serial or self._expected_serial or serial
        if serial != expected:
            raise KeyFault(self._transport.key, f"it reports the serial {serial} instead of {expected}")
        self._serial = serial

    def _entropy(self, frame: Frame) -> bytes | None:
        noise = self._session.decrypt(frame)
        if noise is None:
            return None
        self._resets_in_row = 0
        if frame.sub_code == LAST_SEQUENCE and self._state is _State.KEYED:
            self._ask_for_session()
        return noise

    def _information(self, frame: Frame) -> bytes | None:
        try:
            self._telemetry = self._telemetry.updated(frame.text, self._clock())
        except ValueError:
            return None
        badness = self._telemetry.badness
        if badness not in (None, HEALTHY):
            raise KeySelfStopped(self._transport.key, badness, meaning(badness))
        return b""

    def _block_ready(self) -> bytes:
        if self._state is _State.KEYED:
            self._ask_for_session()
            return b""
        self._blocks_ignored += 1
        if self._blocks_ignored > BLOCKS_IGNORED_MAX:
            self._reset("it does not answer K")
        elif self._blocks_ignored % BLOCKS_PER_REKEY == 0:
            # With the same nonce, so that it does not matter which of the two is answered.
            self._send_rekey()
        return b""

    def _session_rekey(self, frame: Frame) -> bytes | None:
        if self._rekeys_open == 0:
            return None
        self._rekeys_open -= 1
        if frame.sub_code != len(self._nonce) or len(frame.binary) != ENTROPY_BYTES:
            self._reset("it did not receive the nonce whole")
            return None
        serial = base64.b64decode(self._serial)
        secret = session_key(serial, self._long_term_key, self._nonce, frame.binary)
        self._previous, self._session = self._session, Session(serial, secret)
        self._sessions += 1
        self._enter(_State.KEYED_FIRST)
        return b""

    # --- what is sent

    def _reset(self, why: str) -> None:
        """Send one ^C and wait for its S!, unless resets have proved to be no help."""
        if self._resets_in_row == RESETS_MAX:
            if self._heard_in_row:
                raise KeyFault(self._transport.key, f"{RESETS_MAX} resets in a row brought no noise")
            waited_ms = round((self._clock() - self._resets_since_s) * 1000)
            raise KeySilent(self._transport.key, waited_ms)
        if self._resets_in_row == 0:
            self._resets_since_s = self._clock()
            self._heard_in_row = False
        # The first is part of every start; any other is worth a line.
        level = logging.INFO if self._resets else logging.DEBUG
        _log.log(level, "%s: reset: %s", self._transport.key, why)
        self._resets_in_row += 1
        self._resets += 1
        self._transport.write(RESET, WRITE_TIMEOUT_MS)
        self._enter(_State.INIT)

    def _ask_for_session(self) -> None:
        self._nonce = struct.pack("<I", self._nonces) + self._random_bytes(NONCE_RANDOM_BYTES)
        self._nonces += 1
        self._rekeys_open = 0
        self._blocks_ignored = 0
        self._send_rekey()
        self._enter(_State.SESSION_SENT)

    def _send_rekey(self) -> None:
        self._rekeys_open += 1
        self._transport.write(rekey_command(self._nonce), WRITE_TIMEOUT_MS)

    def _enter(self, state: _State) -> None:
        self._state = state
        self._waited_s = 0.0
        self._bad_in_row = 0
