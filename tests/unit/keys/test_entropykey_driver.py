# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Entropy Key's driver against a simulated key that behaves."""

import base64
import math
from typing import TYPE_CHECKING

import pytest

from virtrng.errors import KeyFault, KeyLost, KeySilent, NoLongTermKey
from virtrng.keys import KEYS, kind_named
from virtrng.keys.entropykey import EntropyKey
from virtrng.keys.entropykey.frames import FrameType, binary_frame
from virtrng.keys.entropykey.session import RESET, ZERO_KEY, Session
from virtrng.keys.entropykey.telemetry import Telemetry
from virtrng.sim.entropykey import SERIAL, simulated

if TYPE_CHECKING:
    from tests.unit.keys.conftest import Rig

SESSION_BYTES = 4096 * 32


def test_start_costs_one_reset_and_one_rekey(rig: "Rig") -> None:
    rig.key.start()
    assert rig.key.serial == SERIAL
    assert rig.looked_up == [SERIAL]
    # 4 bytes of count, then 8 at random: zeros on this rig.
    assert rig.wire.written == [RESET, b"K" + base64.b64encode(bytes(12)) + b"."]


def test_noise_is_what_the_key_encrypted(rig: "Rig") -> None:
    rig.key.start()
    noise = rig.key.read(10_000)
    assert noise is not None
    assert noise.data == rig.encrypted[0]
    assert noise.claimed_bits == 128
    assert noise.key == f"entropykey:serial={SERIAL}"
    assert rig.key.simulated


def test_claimed_bits_are_rounded_down(rig: "Rig") -> None:
    rig.key = EntropyKey(rig.wire, lambda _: rig.driver_long_term_key, min_entropy=0.4999, clock=rig.clock)
    rig.key.start()
    noise = rig.key.read(10_000)
    assert noise is not None
    assert noise.claimed_bits == math.floor(256 * 0.4999) == 127


def test_four_sessions_without_losing_a_frame(rig: "Rig") -> None:
    announced: list[bytes] = []
    rig.wire.tamper = lambda frame: announced.append(frame[2:4]) or frame  # type: ignore[func-returns-value]
    rig.key.start()
    emitted = rig.collect(3 * SESSION_BYTES + 320)
    assert b"k>" not in announced  # for K went out at once after each sequence 4095
    assert emitted == b"".join(rig.encrypted)[: len(emitted)]
    counters = rig.key.counters
    assert (counters.sessions, counters.resets, counters.frames_bad) == (4, 1, 0)
    nonces = [base64.b64decode(each[1:-1]) for each in rig.wire.written[1:]]
    assert nonces == [count.to_bytes(4, "little") + bytes(8) for count in range(4)]


def test_a_larger_read_gives_all_that_is_at_hand(make_rig: "type[Rig]") -> None:
    rig = make_rig(read_bytes=78 * 64)
    rig.key.start()
    noise = rig.key.read(10_000)
    assert noise is not None
    assert len(noise.data) > 32
    emitted = noise.data + rig.collect(6400)
    assert emitted == b"".join(rig.encrypted)[: len(emitted)]


def test_read_returns_none_when_nothing_came_in_time(rig: "Rig") -> None:
    rig.key.start()
    began_s = rig.clock()
    assert rig.key.read(100) is None
    assert rig.clock() - began_s == pytest.approx(0.1, abs=0.002)
    assert rig.key.read(0) is None


def test_a_pause_of_the_feeder_is_not_the_keys_silence(rig: "Rig") -> None:
    rig.running()
    for _ in range(5):
        rig.clock.sleep(100.0)
        rig.collect(32)
    assert rig.resets == 1


def test_the_end_of_a_session_whose_last_frame_was_lost(rig: "Rig") -> None:
    """The key then falls silent and says k>, once for each block."""
    rig.running(78 * 32)
    rig.firmware._sequence = 4095 - 10
    assert rig.collect(320) == b"".join(rig.encrypted[78:88])
    rig.next_entropy(lambda _: b"")
    assert rig.collect(320) == b"".join(rig.encrypted[89:99])
    assert (rig.resets, rig.key.counters.sessions) == (1, 2)
    assert rig.key.counters.frames_bad == 0


def test_a_first_sequence_of_one(rig: "Rig") -> None:
    rig.key.start()
    rig.next_entropy(lambda _: b"")
    assert rig.collect(32) == rig.encrypted[1]
    assert rig.key.counters.frames_bad == 0


def test_k_is_sent_again_only_when_it_was_surely_ignored(rig: "Rig") -> None:
    """A key that wants a block ready first: the first k> may have crossed with K."""
    rig.wire.tamper = lambda frame: b"" if frame[2:4] == b"I>" else frame
    write, ignored = rig.wire.inner.write, 1

    def ignore_first(data: bytes, timeout_ms: int) -> None:
        nonlocal ignored
        if data[:1] == b"K" and ignored:
            ignored -= 1
            return
        write(data, timeout_ms)

    rig.wire.inner.write = ignore_first  # type: ignore[method-assign]
    rig.key.start()
    assert rig.collect(3200) == b"".join(rig.encrypted)[:3200]
    assert rig.wire.written == [RESET, rig.wire.written[1], rig.wire.written[1]]


def test_two_answers_to_the_same_k(rig: "Rig") -> None:
    """When K was late and not ignored, its repetition begins yet another session."""
    rig.key.start()
    rig.key._rekeys_open += 1
    rig.wire.inner.write(rig.wire.written[-1], 1000)
    assert rig.collect(320) == b"".join(rig.encrypted)[:320]
    assert (rig.resets, rig.key.counters.sessions, rig.key.counters.frames_bad) == (1, 2, 0)


def test_a_key_that_never_answers_k(rig: "Rig") -> None:
    rig.wire.tamper = lambda frame: b"" if frame[2:4] in (b"K!", b"E!") else frame
    rig.key.start()
    with pytest.raises(KeyFault, match="5 resets in a row"):
        rig.key.read(10**9)
    assert rig.resets == 5


def test_a_key_that_ignores_k_for_ever(rig: "Rig") -> None:
    rig.wire.inner.write, write = (  # type: ignore[method-assign]
        lambda data, timeout_ms: write(data, timeout_ms) if data == RESET else None,
        rig.wire.inner.write,
    )
    rig.key.start()
    with pytest.raises(KeyFault):
        rig.key.read(10**9)
    assert rig.resets == 5
    # Six k> a reset: the second and the fourth are answered, the sixth costs the next reset.
    assert len(rig.wire.written) == 5 * 4


def test_telemetry(rig: "Rig") -> None:
    rig.running()
    rig.collect(SESSION_BYTES // 4)
    telemetry = rig.key.counters.telemetry
    assert (telemetry.temperature_dk, telemetry.voltage_mv, telemetry.badness) == (3143, 3254, "0")
    assert telemetry.fips_blocks
    assert telemetry.fips_failures == 0


@pytest.mark.parametrize("text", ["T", "T0314", "V03254 Q", "F07342:1", "S0:1", "T03143V03254"])
def test_malformed_telemetry(text: str) -> None:
    with pytest.raises(ValueError, match="malformed"):
        Telemetry().updated(text)


def test_telemetry_of_a_real_key() -> None:
    telemetry = Telemetry().updated("T03150 V03254").updated("F07342:00003:00001:00001:00001")
    telemetry = telemetry.updated("S08052:23751:23792:23584:07112:20876:08063:24150:0")
    assert (telemetry.temperature_dk, telemetry.voltage_mv, telemetry.badness) == (3150, 3254, "0")
    assert (telemetry.fips_blocks, telemetry.fips_failures) == (7342, 3)


def test_a_silent_key(rig: "Rig") -> None:
    rig.wire.tamper = lambda _: b""
    began_s = rig.clock()
    with pytest.raises(KeySilent) as silent:
        rig.key.start()
    assert rig.wire.written == [RESET] * 5
    assert silent.value.waited_ms == pytest.approx(10_000, abs=10)
    assert rig.clock() - began_s == pytest.approx(10, abs=0.01)


def test_another_serial_than_expected(make_rig: "type[Rig]") -> None:
    rig = make_rig(expected="NwBvBlg3OTBJORFD")
    with pytest.raises(KeyFault, match=r"SIMULATED\+KEY/01 instead of NwBvBlg3OTBJORFD"):
        rig.key.start()
    assert rig.looked_up == []


def test_the_expected_serial(make_rig: "type[Rig]") -> None:
    make_rig(expected=SERIAL).running()


def test_another_version_of_the_protocol(rig: "Rig") -> None:
    serial = base64.b64decode(SERIAL)
    other = Session(serial, ZERO_KEY).frame(binary_frame(FrameType.SERIAL_NUMBER, 1, serial))
    rig.wire.tamper = lambda frame: other if frame[2:4] == b"S!" else frame
    with pytest.raises(KeyFault, match="version 1"):
        rig.key.start()


def test_another_serial_after_a_reset(rig: "Rig") -> None:
    rig.running()
    serial = bytes(12)
    other = Session(serial, ZERO_KEY).frame(binary_frame(FrameType.SERIAL_NUMBER, 0, serial))
    rig.wire.tamper = lambda _: other
    with pytest.raises(KeyFault, match="instead of"):
        rig.key.read(60_000)


def test_no_long_term_key(rig: "Rig") -> None:
    def look_up(serial: str) -> bytes:
        raise NoLongTermKey(serial, "/etc/virtrng/keyring")

    rig.key = EntropyKey(rig.wire, look_up, min_entropy=0.5, clock=rig.clock)
    with pytest.raises(NoLongTermKey, match=r"SIMULATED\+KEY/01"):
        rig.key.start()
    with pytest.raises(NoLongTermKey):
        rig.key.read(0)


def test_start_again_looks_the_long_term_key_up_again(rig: "Rig") -> None:
    rig.running()
    rig.key.start()
    assert rig.looked_up == [SERIAL, SERIAL]
    assert rig.collect(320)


def test_a_key_that_vanished(rig: "Rig") -> None:
    rig.running()
    rig.wire.gone = True
    for _ in range(2):
        with pytest.raises(KeyLost):
            rig.key.read(1000)


def test_close_goes_to_the_transport(rig: "Rig") -> None:
    rig.key.close()
    rig.key.close()
    assert rig.wire.closed == 2


def test_simulated_opens_without_a_keyring(rig: "Rig") -> None:
    transport, long_term_key = simulated(clock=rig.clock, sleep=rig.clock.sleep)
    key = EntropyKey(transport, lambda _: long_term_key, min_entropy=0.5, clock=rig.clock)
    key.start()
    noise = key.read(10_000)
    assert noise is not None
    assert len(noise.data) == 32
    assert long_term_key.hex() not in repr(noise)


def test_the_registry() -> None:
    (kind,) = KEYS
    assert kind_named("entropykey") is kind
    assert kind_named("none such") is None
    assert [(usb.vendor_id, usb.product_id) for usb in kind.usb] == [(0x20DF, 1)]
    assert kind.min_entropy == 0.5
