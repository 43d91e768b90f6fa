# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bad input: dropped, counted, never emitted; one reset where one is due, and none elsewhere."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from virtrng.errors import KeyFault, KeySilent, WrongLongTermKey
from virtrng.keys.entropykey.frames import FRAME_BYTES, FrameType, binary_frame, text_frame
from virtrng.keys.entropykey.session import RESET, ZERO_KEY, Session
from virtrng.sim.entropykey import SERIAL

if TYPE_CHECKING:
    from tests.unit.keys.conftest import Rig


def wrong_mac(frame: bytes) -> bytes:
    return frame[:54] + (b"AAAAAAAA" if frame[54:62] != b"AAAAAAAA" else b"BBBBBBBB") + frame[62:]


def flipped(frame: bytes) -> bytes:
    """Another ciphertext under the old MAC."""
    return frame[:20] + (b"A" if frame[20:21] != b"A" else b"B") + frame[21:]


def renumbered(frame: bytes) -> bytes:
    return frame[:4] + b"//" + frame[6:]


TORN: dict[str, Callable[[bytes], bytes]] = {
    "wrong MAC": wrong_mac,
    "flipped bit": flipped,
    "renumbered": renumbered,
    "torn at the end": lambda frame: frame[:40],
    "torn at the start": lambda frame: frame[30:],
    "torn in the middle": lambda frame: frame[:20] + frame[50:],
    "high bytes": lambda frame: frame[:20] + b"\xff\x80" + frame[22:],
    "noise": lambda frame: bytes(range(64)),
    "stars": lambda frame: b"*" * 64,
    "unknown type": lambda frame: frame.replace(b"E!", b"Q!"),
}


@pytest.mark.parametrize("change", TORN.values(), ids=TORN.keys())
def test_a_bad_frame_is_dropped_and_counted_and_the_session_stays(
    rig: "Rig", change: Callable[[bytes], bytes]
) -> None:
    rig.running(320)
    rig.next_entropy(change)
    assert rig.collect(320) == b"".join(rig.encrypted[11:21])
    assert rig.key.counters.frames_bad == 1
    assert (rig.resets, rig.key.counters.sessions) == (1, 1)


@pytest.mark.parametrize("noise", [b"*", b"\0" * 17, b"* E!\r\n", bytes(range(256)), b"* " * 100])
def test_noise_between_frames_costs_none_of_them(rig: "Rig", noise: bytes) -> None:
    rig.running(320)
    rig.next_entropy(lambda frame: noise + frame)
    assert rig.collect(320) == b"".join(rig.encrypted[10:20])
    assert rig.key.counters.frames_bad == -(-len(noise) // FRAME_BYTES)
    assert rig.resets == 1


def test_a_duplicate_is_emitted_once(rig: "Rig") -> None:
    rig.running(320)
    rig.next_entropy(lambda frame: frame * 2)
    assert rig.collect(320) == b"".join(rig.encrypted[10:20])
    assert (rig.key.counters.frames_bad, rig.resets) == (1, 1)


def test_an_old_frame_again_is_not_emitted(rig: "Rig") -> None:
    recorded: list[bytes] = []
    rig.wire.tamper = lambda frame: recorded.append(frame) or frame  # type: ignore[func-returns-value]
    rig.running(320)
    old = next(frame for frame in recorded if frame[2:4] == b"E!")
    rig.next_entropy(lambda frame: frame + old)
    assert rig.collect(320) == b"".join(rig.encrypted[10:20])
    assert (rig.key.counters.frames_bad, rig.resets) == (1, 1)


def test_a_frame_of_an_earlier_session_is_not_emitted(rig: "Rig") -> None:
    recorded: list[bytes] = []
    rig.wire.tamper = lambda frame: recorded.append(frame) or frame  # type: ignore[func-returns-value]
    rig.running(320)
    old = [frame for frame in recorded if frame[2:4] == b"E!"][-1]
    rig.running(32)
    assert rig.key.counters.sessions == 2
    rig.next_entropy(lambda frame: old + frame)
    assert rig.collect(320) == b"".join(rig.encrypted[79:89])
    assert (rig.key.counters.frames_bad, rig.resets) == (1, 2)


def test_of_two_frames_in_the_wrong_order_the_later_is_kept(rig: "Rig") -> None:
    rig.running(320)
    held: list[bytes] = []

    def swap(frame: bytes) -> bytes:
        if held:
            return frame + held.pop()
        held.append(frame)
        return b""

    rig.next_entropy(swap, times=2)
    assert rig.collect(320) == b"".join(rig.encrypted[11:21])
    assert (rig.key.counters.frames_bad, rig.resets) == (1, 1)


def test_seven_bad_frames_in_a_row_cost_nothing_else(rig: "Rig") -> None:
    rig.running(320)
    rig.next_entropy(wrong_mac, times=7)
    assert rig.collect(320) == b"".join(rig.encrypted[17:27])
    assert (rig.key.counters.frames_bad, rig.resets) == (7, 1)


def test_bad_frames_with_a_good_one_between_them_are_not_in_a_row(rig: "Rig") -> None:
    rig.running(320)
    rig.next_entropy(wrong_mac, times=7)
    rig.collect(32)
    rig.next_entropy(wrong_mac, times=7)
    assert rig.collect(320) == b"".join(rig.encrypted[25:35])
    assert (rig.key.counters.frames_bad, rig.resets) == (14, 1)


@pytest.mark.parametrize("change", [wrong_mac, lambda _: b"*" * 64], ids=["wrong MAC", "noise"])
def test_eight_bad_frames_in_a_row_cost_one_reset_and_rekey(
    rig: "Rig", change: Callable[[bytes], bytes]
) -> None:
    rig.running(320)
    rig.next_entropy(change, times=8)
    emitted = rig.collect(6400)
    assert emitted[-320:] in b"".join(rig.encrypted)
    assert rig.key.counters.frames_bad == 8
    assert (rig.resets, rig.key.counters.sessions) == (2, 2)
    assert [each[:1] for each in rig.wire.written] == [RESET, b"K", RESET, b"K"]


def test_two_seconds_without_a_good_frame_cost_one_reset_and_rekey(rig: "Rig") -> None:
    rig.running(320)
    silent_from_s = rig.clock()
    rig.wire.tamper = lambda frame: b"" if rig.clock() < silent_from_s + 2.0 else frame
    assert rig.collect(3200)[-320:] in b"".join(rig.encrypted)
    assert (rig.resets, rig.key.counters.sessions) == (2, 2)


def test_shorter_silence_costs_nothing(rig: "Rig") -> None:
    rig.running(320)
    silent_from_s = rig.clock()
    rig.wire.tamper = lambda frame: b"" if rig.clock() < silent_from_s + 1.2 else frame
    rig.collect(3200)
    assert rig.resets == 1


def test_silence_adds_up_over_short_reads(rig: "Rig") -> None:
    rig.running(320)
    rig.wire.tamper = lambda _: b""
    began_s = rig.clock()
    while rig.resets == 1:
        assert rig.key.read(100) is None
    assert rig.clock() - began_s == pytest.approx(2.0, abs=0.3)


def test_a_key_that_falls_silent_for_good(rig: "Rig") -> None:
    rig.running(320)
    rig.wire.tamper = lambda _: b""
    with pytest.raises(KeySilent):
        rig.key.read(10**9)
    assert rig.resets == 1 + 5
    with pytest.raises(KeySilent):
        rig.key.read(0)


def test_noise_for_ever_ends_in_an_error(rig: "Rig") -> None:
    rig.running(320)
    rig.wire.tamper = lambda frame: bytes(reversed(frame))
    with pytest.raises(KeySilent):
        rig.key.read(10**9)
    assert rig.resets == 1 + 5


def test_read_keeps_its_time_while_garbage_comes(rig: "Rig") -> None:
    rig.running(320)
    rig.wire.tamper = lambda _: b"\0"
    began_s = rig.clock()
    assert rig.key.read(1000) is None
    assert rig.clock() - began_s == pytest.approx(1.0, abs=0.01)


def test_attaching_in_mid_session_costs_one_reset(rig: "Rig") -> None:
    """What the session before left in the buffer belongs to nobody, and is no fault."""
    rig.firmware.receive(b"KAAAAALCxsrO0tba3.")
    rig.clock.sleep(0.63)
    rig.wire.inner.read(100, 0)
    rig.key.start()
    before = len(rig.encrypted)
    assert before == 78
    assert rig.collect(320) == b"".join(rig.encrypted[before : before + 10])
    assert rig.resets == 1
    assert rig.key.counters.frames_bad <= 1  # half a frame, on which the reading began


@pytest.mark.parametrize("plugged_in_s", [1, 3, 8, 60])
def test_what_a_key_said_before_we_came_costs_nothing(rig: "Rig", plugged_in_s: int) -> None:
    """Its S! and a k> a block wait unread: that S! is not the answer to ^C, and those k> ask for nothing."""
    rig.clock.sleep(plugged_in_s)
    rig.firmware.advance(rig.clock())
    rig.key.start()
    assert rig.collect(320) == b"".join(rig.encrypted[:10])
    assert [each[:1] for each in rig.wire.written] == [RESET, b"K"]
    assert rig.key.counters.frames_bad == 0


def test_what_another_host_asked_for_before_it_was_killed_costs_nothing(rig: "Rig") -> None:
    """Its S! and its K! wait unread, and verify as ours would."""
    rig.firmware.receive(RESET)
    rig.firmware.receive(b"KAAAAALCxsrO0tba3.")
    rig.key.start()
    assert rig.collect(320) == b"".join(rig.encrypted[:10])
    assert [each[:1] for each in rig.wire.written] == [RESET, b"K"]


def test_a_key_that_never_falls_silent_is_asked_all_the_same(rig: "Rig") -> None:
    rig.wire.tamper = lambda frame: frame + b"x" * 64
    rig.key.start()
    assert rig.collect(320) == b"".join(rig.encrypted[:10])


def test_a_forged_serial_number_frame_is_not_believed(rig: "Rig") -> None:
    forged = Session(bytes(12), ZERO_KEY).frame(binary_frame(FrameType.SERIAL_NUMBER, 0, b"another one!"))
    short = Session(bytes(12), ZERO_KEY).frame(binary_frame(FrameType.SERIAL_NUMBER, 0, bytes(11)))
    rig.wire.tamper = lambda frame: forged + short + b"x" + frame if frame[2:4] == b"S!" else frame
    rig.key.start()
    assert rig.key.serial == SERIAL
    assert rig.key.counters.frames_bad >= 3
    assert rig.resets == 1


def test_a_serial_number_frame_in_mid_session_is_not_obeyed(rig: "Rig") -> None:
    recorded: list[bytes] = []
    rig.wire.tamper = lambda frame: recorded.append(frame) or frame  # type: ignore[func-returns-value]
    rig.running(320)
    rig.next_entropy(lambda frame: recorded[0] + frame)
    assert rig.collect(320) == b"".join(rig.encrypted[10:20])
    assert (rig.key.counters.frames_bad, rig.resets) == (1, 1)


def test_entropy_under_the_zero_key_is_not_emitted(rig: "Rig") -> None:
    zero = rig.firmware._session
    forged = zero.frame(zero.encrypt(0, b"x" * 32))
    rig.wire.tamper = lambda frame: forged + frame if frame[2:4] == b"K!" else frame
    rig.key.start()
    assert rig.collect(320) == b"".join(rig.encrypted[:10])
    assert (rig.key.counters.frames_bad, rig.resets) == (1, 1)


def test_a_wrong_long_term_key(make_rig: "type[Rig]") -> None:
    rig = make_rig(long_term_key=bytes(32))
    rig.key.start()
    with pytest.raises(WrongLongTermKey, match="/etc/virtrng/keyring"):
        rig.key.read(60_000)
    assert [each[:1] for each in rig.wire.written] == [RESET, b"K", RESET, b"K"]
    with pytest.raises(WrongLongTermKey):
        rig.key.read(60_000)
    assert len(rig.wire.written) == 4


def first_after_rekey(rig: "Rig", change: Callable[[bytes], bytes]) -> None:
    """Change the first frame after the first K! that is yet to come."""
    before = b""

    def tamper(frame: bytes) -> bytes:
        nonlocal before
        if before[2:4] == b"K!":
            rig.wire.tamper = lambda frame: frame
            return change(frame)
        before = frame
        return frame

    rig.wire.tamper = tamper


def test_one_bad_first_frame_costs_one_reset(rig: "Rig") -> None:
    first_after_rekey(rig, wrong_mac)
    rig.running(6400)
    assert (rig.resets, rig.key.counters.sessions, rig.key.counters.frames_bad) == (2, 2, 1)


def test_bad_first_frames_count_only_when_no_session_lies_between_them(rig: "Rig") -> None:
    first_after_rekey(rig, wrong_mac)
    rig.running(320)
    first_after_rekey(rig, wrong_mac)
    rig.firmware._sequence = 4000
    rig.collect(100 * 32 + 78 * 32)
    assert (rig.resets, rig.key.counters.sessions, rig.key.counters.frames_bad) == (3, 4, 2)


@pytest.mark.parametrize("garbage", [b"*", b"\0" * 200], ids=["star", "noise"])
def test_garbage_after_k_says_nothing_about_the_long_term_key(rig: "Rig", garbage: bytes) -> None:
    first_after_rekey(rig, lambda frame: garbage + frame)
    rig.running(320)
    assert rig.resets == 1


def test_a_duplicate_of_k_says_nothing_about_the_long_term_key(rig: "Rig") -> None:
    rig.wire.tamper = lambda frame: frame * 2 if frame[2:4] == b"K!" else frame
    rig.running(320)
    assert (rig.resets, rig.key.counters.sessions, rig.key.counters.frames_bad) == (1, 1, 1)


def test_an_unasked_k_is_refused(rig: "Rig") -> None:
    rig.running(320)
    rig.firmware._send(binary_frame(FrameType.SESSION_REKEY, 12, bytes(32)))
    rig.collect(3200)
    assert (rig.resets, rig.key.counters.sessions, rig.key.counters.frames_bad) == (1, 1, 1)


@pytest.mark.parametrize(("length", "entropy"), [(11, bytes(32)), (12, bytes(31))])
def test_a_k_that_answers_another_nonce_costs_one_reset(rig: "Rig", length: int, entropy: bytes) -> None:
    zero = rig.firmware._session
    wrong = zero.frame(binary_frame(FrameType.SESSION_REKEY, length, entropy))
    left = 1

    def tamper(frame: bytes) -> bytes:
        nonlocal left
        if frame[2:4] == b"K!" and left:
            left -= 1
            return wrong
        return frame

    rig.wire.tamper = tamper
    rig.running(320)
    assert (rig.resets, rig.key.counters.sessions, rig.key.counters.frames_bad) == (2, 1, 1)


def test_resets_that_bring_no_noise_end_in_an_error(rig: "Rig") -> None:
    rig.wire.tamper = lambda frame: b"" if frame[2:4] == b"E!" else frame
    rig.key.start()
    with pytest.raises(KeyFault, match="5 resets in a row brought no noise"):
        rig.key.read(10**9)
    assert rig.resets == 5


def test_unexpected_input_costs_one_reset(rig: "Rig") -> None:
    rig.running(320)
    rig.wire.inner.write(b"AT+GCAP\r", 1000)  # as ModemManager greets serial ports
    rig.collect(6400)
    assert (rig.resets, rig.key.counters.sessions, rig.key.counters.frames_bad) == (2, 2, 1)


@pytest.mark.parametrize("kind", [b"Z>", b"Z!", b"M>", b"l>", b"L!"])
def test_frames_that_nobody_asked_for_are_counted_and_not_fatal(rig: "Rig", kind: bytes) -> None:
    rig.running(320)
    rig.firmware._send((kind + b"AAAA").ljust(52))
    emitted = rig.collect(3200)
    assert emitted == b"".join(rig.encrypted[10:110])
    assert (rig.key.counters.frames_bad, rig.resets) == (1, 1)


def test_an_information_frame_that_is_malformed_is_counted(rig: "Rig") -> None:
    rig.running(320)
    rig.firmware._send(text_frame(FrameType.INFORMATION, "T-0001"))
    rig.collect(3200)
    assert (rig.key.counters.frames_bad, rig.resets) == (1, 1)


def test_no_secret_shows(rig: "Rig", caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    rig.running(320)
    rig.next_entropy(wrong_mac, times=8)
    rig.collect(6400)
    assert "8 bad frames in a row" in caplog.text
    shown = caplog.text + repr(rig.key) + repr(rig.key.counters) + repr(rig.key._session)
    for secret in (rig.driver_long_term_key, *rig.encrypted[:20]):
        assert secret.hex() not in shown
        assert repr(secret) not in shown
