# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pairing exchange against a simulated key, one that behaves and ones that do not."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.keys.conftest import LONG_TERM_KEY, Clock, Wire
from virtrng.errors import (
    KeyFault,
    KeyLost,
    KeySelfStopped,
    KeySilent,
    KeyTrouble,
    PairingLocked,
    PairingUnfinished,
    WrongMasterKey,
)
from virtrng.keys.entropykey import EntropyKey
from virtrng.keys.entropykey.exchange import Pairing
from virtrng.keys.entropykey.frames import FrameType, binary_frame, text_frame
from virtrng.keys.entropykey.session import RESET, ZERO_KEY, Session
from virtrng.sim.entropykey import SERIAL, SimulatedTransport, seeded_noise
from virtrng.sim.faults import Fault, FaultyEntropyKey

MASTER_KEY = bytes(range(32))
OTHER_MASTER_KEY = bytes(range(1, 33))
ZERO_SESSION = Session(base64.b64decode(SERIAL), ZERO_KEY)


class Rig:
    """Both ends on one clock; `remembered` are the long-term keys that the key took."""

    def __init__(self, *faults: str, expected: str = SERIAL) -> None:
        self.clock = Clock()
        self.remembered: list[bytes] = []
        self.firmware = FaultyEntropyKey(
            [Fault(name) for name in faults],
            seed="pairing",
            long_term_key=LONG_TERM_KEY,
            master_key=MASTER_KEY,
            now_s=self.clock(),
            remember=self.remembered.append,
            device_entropy=seeded_noise(b"device"),
        )
        self.wire = Wire(SimulatedTransport(self.firmware, clock=self.clock, sleep=self.clock.sleep))
        self.pairing = Pairing(
            self.wire, serial=expected, clock=self.clock, random_bytes=seeded_noise(b"host")
        )

    def pair(self, master_key: bytes = MASTER_KEY) -> bytes:
        self.pairing.identify()
        self.pairing.unlock(master_key)
        return self.pairing.rekey()

    def unlocked(self) -> "Rig":
        self.pairing.identify()
        self.pairing.unlock(MASTER_KEY)
        return self

    def change(self, kind: bytes, change: Callable[[bytes], bytes]) -> None:
        """Change the frames of this type on the wire."""
        self.wire.tamper = lambda frame: change(frame) if frame[2:4] == kind else frame


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- what must come of it


def test_both_ends_have_the_same_long_term_key(rig: Rig) -> None:
    paired = rig.pair()
    assert rig.remembered == [paired]
    assert paired != LONG_TERM_KEY
    assert rig.pairing.serial == SERIAL


def test_each_command_is_one_transfer(rig: Rig) -> None:
    rig.pair()
    reset, unlock, rekey = rig.wire.written
    assert reset == RESET
    assert (unlock[:1], len(unlock)) == (b"M", 9)
    assert (rekey[:1], rekey[-1:], len(base64.b64decode(rekey[1:-1]))) == (b"L", b".", 12)


def test_a_session_under_it_works(rig: Rig) -> None:
    paired = rig.pair()
    key = EntropyKey(rig.wire, lambda _: paired, min_entropy=0.5, clock=rig.clock)
    key.start()
    assert key.read(10_000) is not None
    assert key.counters.frames_bad == 0


def test_each_pairing_makes_another(rig: Rig) -> None:
    assert len({rig.pair() for _ in range(3)}) == 3


def test_the_serial_may_be_unknown_beforehand() -> None:
    rig = Rig(expected="")
    assert rig.pairing.identify() == SERIAL
    assert rig.pairing.serial == SERIAL


class Script:
    """A transport that gives prepared answers to prepared commands, and fails at any other."""

    simulated = False
    key = "entropykey:serial=NwBvBlg3OTBJORFD"

    def __init__(self, *turns: tuple[bytes, bytes]) -> None:
        self.turns = list(turns)
        self.due = b""

    def write(self, data: bytes, timeout_ms: int) -> None:
        command, answer = self.turns.pop(0)
        assert data == command
        self.due += answer

    def read(self, size: int, timeout_ms: int) -> bytes:
        taken, self.due = self.due[:size], self.due[size:]
        return taken

    def close(self) -> None:
        return


def test_v4() -> None:
    script = Script(
        (RESET, b"* S!AANwBvBlg3OTBJORFD                                Al/Smw1b\r\n"),
        (b"MTa2VVJma", b"* M>Long-term rekey unlocked                          vrHSYIoF\r\n"),
        (
            b"LoKGio6Slpqeoqaqr.",
            b"* L!MAQEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=    CnUSZ4vh\r\n",
        ),
    )
    pairing = Pairing(script, random_bytes=lambda size: bytes(range(0xA0, 0xA0 + size)))
    assert pairing.identify() == "NwBvBlg3OTBJORFD"
    pairing.unlock(MASTER_KEY)
    assert pairing.rekey().hex() == "0b5941a541f7e976311d1e10570f1bd9357e6da48c2c8ad7e8945b329820e978"
    assert script.turns == []


# --- refusals: nothing has changed


def test_the_wrong_master_key(rig: Rig) -> None:
    with pytest.raises(WrongMasterKey) as refused:
        rig.pair(OTHER_MASTER_KEY)
    assert refused.value.serial == SERIAL
    assert rig.remembered == []
    assert rig.pair()  # at once, with the right one


def test_locked_out(rig: Rig) -> None:
    rig.unlocked()
    rig.wire.inner.write(RESET, 1)
    with pytest.raises(PairingLocked, match=r"SIMULATED\+KEY/01 is locked out"):
        rig.pairing.rekey()
    assert rig.remembered == []


def test_refused_in_unknown_words(rig: Rig) -> None:
    other = ZERO_SESSION.frame(text_frame(FrameType.LONG_TERM_REFUSED, "Not today"))
    rig.change(b"l>", lambda _: other)
    with pytest.raises(KeyFault, match="refuses to be paired: 'Not today'"):
        rig.pair(OTHER_MASTER_KEY)


def test_bad_generators() -> None:
    rig = Rig("bad-generators")
    with pytest.raises(KeySelfStopped, match="its generators failed"):
        rig.pair()
    assert rig.remembered == []


@pytest.mark.parametrize("command", ["M", "L"])
def test_a_command_that_is_not_understood(rig: Rig, command: str) -> None:
    write = rig.wire.inner.write
    rig.wire.inner.write = (  # type: ignore[method-assign]
        lambda data, timeout_ms: write(b"#" if data[:1] == command.encode() else data, timeout_ms)
    )
    with pytest.raises(KeyFault, match=f"did not understand the command {command}"):
        rig.pair()
    assert rig.remembered == []


# --- another key than was meant


def test_another_serial() -> None:
    rig = Rig(expected="NwBvBlg3OTBJORFD")
    with pytest.raises(KeyFault, match=r"reports the serial SIMULATED\+KEY/01 instead of NwBvBlg3OTBJORFD"):
        rig.pairing.identify()
    rig = Rig("wrong-serial")
    with pytest.raises(KeyFault, match="instead of SIMULATED"):
        rig.pairing.identify()


def test_a_key_that_was_exchanged_meanwhile() -> None:
    rig = Rig(expected="")
    rig.pairing.identify()
    rig.change(b"S!", lambda _: Session(bytes(12), ZERO_KEY).frame(
        binary_frame(FrameType.SERIAL_NUMBER, 0, bytes(12))))  # fmt: skip
    with pytest.raises(KeyFault, match="instead of"):
        rig.pairing.identify()


def test_another_version(rig: Rig) -> None:
    newer = ZERO_SESSION.frame(binary_frame(FrameType.SERIAL_NUMBER, 1, base64.b64decode(SERIAL)))
    rig.change(b"S!", lambda _: newer)
    with pytest.raises(KeyFault, match="speaks version 1"):
        rig.pairing.identify()


# --- silence, and noise


def test_silence_from_the_first(rig: Rig) -> None:
    rig.wire.tamper = lambda _: b""
    began_s = rig.clock()
    with pytest.raises(KeySilent, match="no valid frame for 10000 ms"):
        rig.pairing.identify()
    assert rig.clock() - began_s == pytest.approx(10, abs=0.1)
    assert rig.wire.written == [RESET] * 5


def test_one_lost_answer_costs_one_more_reset(rig: Rig) -> None:
    lost = 2  # that of plugging in, and that of the first ^C

    def lose(frame: bytes) -> bytes:
        nonlocal lost
        lost -= 1
        return frame if lost < 0 else b""

    rig.change(b"S!", lose)
    assert rig.pairing.identify() == SERIAL
    assert rig.wire.written == [RESET] * 2


def test_silence_after_m(rig: Rig) -> None:
    rig.pairing.identify()
    rig.wire.tamper = lambda _: b""
    began_s = rig.clock()
    with pytest.raises(KeySilent, match="no valid frame for 5000 ms"):
        rig.pairing.unlock(MASTER_KEY)
    assert rig.clock() - began_s == pytest.approx(5, abs=0.1)


def test_silence_after_l(rig: Rig) -> None:
    rig.unlocked()
    rig.wire.tamper = lambda _: b""
    with pytest.raises(PairingUnfinished, match=r"in no keyring: .* gave no valid frame for 5000 ms"):
        rig.pairing.rekey()
    assert len(rig.remembered) == 1, "the key has a long-term key that nobody knows"
    rig.wire.tamper = lambda frame: frame
    assert rig.pair() == rig.remembered[1], "what the message says helps"


WRONG_MACS: dict[str, Callable[[bytes], bytes]] = {
    "lost": lambda _: b"",
    "wrong MAC": lambda frame: frame[:54] + (b"B" if frame[54:55] == b"A" else b"A") + frame[55:],
    "torn": lambda frame: frame[:40],
    "other content": lambda frame: frame[:10] + (b"y" if frame[10:11] == b"x" else b"x") + frame[11:],
}


@pytest.mark.parametrize("change", WRONG_MACS.values(), ids=WRONG_MACS)
def test_an_answer_that_does_not_verify_is_none(rig: Rig, change: Callable[[bytes], bytes]) -> None:
    rig.change(b"M>", change)
    rig.pairing.identify()
    with pytest.raises(KeyFault, match="did not answer the command M within 5 s"):
        rig.pairing.unlock(MASTER_KEY)
    rig.change(b"L!", change)
    rig.unlocked()
    with pytest.raises(PairingUnfinished, match="did not answer the command L within 5 s"):
        rig.pairing.rekey()
    rig.change(b"S!", change)
    with pytest.raises(KeySilent):
        rig.pairing.identify()


@pytest.mark.parametrize("noise", [b"*", b"* S!", bytes(range(256)), b"* L!" * 40, b"\r\n", b"\xff" * 63])
def test_garbage_before_every_frame(rig: Rig, noise: bytes) -> None:
    rig.wire.tamper = lambda frame: noise + frame
    assert rig.pair() == rig.remembered[0]


def test_frames_of_a_session_that_was_under_way(rig: Rig) -> None:
    key = EntropyKey(rig.wire, lambda _: LONG_TERM_KEY, min_entropy=0.5, clock=rig.clock)
    key.start()
    assert key.read(10_000)
    rig.clock.sleep(1.0)
    assert rig.pair() == rig.remembered[0]


def test_a_wrong_length_of_nonce() -> None:
    rig = Rig("wrong-nonce-length")
    with pytest.raises(PairingUnfinished, match="did not receive the nonce whole"):
        rig.pair()


def test_too_little_device_entropy(rig: Rig) -> None:
    short = ZERO_SESSION.frame(binary_frame(FrameType.LONG_TERM_REKEY, 12, bytes(31)))
    rig.change(b"L!", lambda _: short)
    with pytest.raises(PairingUnfinished):
        rig.pair()


def test_unplugged(rig: Rig) -> None:
    rig.pairing.identify()
    rig.wire.gone = True
    with pytest.raises(KeyLost):
        rig.pairing.unlock(MASTER_KEY)
    rig.wire.gone = False
    rig.unlocked()
    rig.wire.gone = True
    with pytest.raises(PairingUnfinished, match="was lost while being read"):
        rig.pairing.rekey()


class Noise:
    """A transport that gives these bytes, again and again, a tenth of a second each."""

    simulated = False
    key = "entropykey:serial=x"

    def __init__(self, clock: Clock, pieces: list[bytes]) -> None:
        self.clock, self.pieces, self.reads = clock, pieces, 0

    def write(self, data: bytes, timeout_ms: int) -> None:
        return

    def read(self, size: int, timeout_ms: int) -> bytes:
        self.clock.sleep(0.1)
        self.reads += 1
        return self.pieces[self.reads % len(self.pieces)][:size] if self.pieces else b""

    def close(self) -> None:
        return


FRAME = st.sampled_from(list(FrameType)).map(
    lambda kind: ZERO_SESSION.frame((kind.value or b"Z>") + b"AA".ljust(50))
)


@given(st.lists(st.binary(max_size=64) | FRAME, max_size=8))
def test_no_bytes_whatever_raise_anything_but_trouble_or_last_for_ever(pieces: list[bytes]) -> None:
    clock = Clock()
    pairing = Pairing(Noise(clock, pieces), clock=clock)
    acts: list[Callable[[], Any]] = [pairing.identify, lambda: pairing.unlock(MASTER_KEY), pairing.rekey]
    for act in acts:
        try:
            assert act() is None, "nothing can verify as a serial or as a long-term key"
        except KeyTrouble:
            continue
    assert clock() <= 1000 + 5 * 2 + 2 * 5 + 1


# --- secrets


def test_nothing_secret_is_shown(rig: Rig) -> None:
    shown = []
    for master_key in (MASTER_KEY, OTHER_MASTER_KEY):
        try:
            rig.pair(master_key)
        except KeyTrouble as trouble:
            shown += [str(trouble), repr(trouble), trouble.remedy]
        shown.append(repr(rig.pairing))
    for secret in (MASTER_KEY, OTHER_MASTER_KEY, *rig.remembered):
        forms = (secret.hex(), base64.b64encode(secret).decode()[:40], repr(secret)[2:20])
        assert not [text for text in shown for form in forms if form in text]
