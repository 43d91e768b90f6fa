# SPDX-License-Identifier: LGPL-2.1-or-later
"""The simulated Entropy Key, as the host on the other side of the wire sees it."""

import base64
from collections.abc import Callable

import pytest

from virtrng.errors import KeyLost
from virtrng.keys.entropykey import EntropyKey
from virtrng.keys.entropykey.frames import FrameReader, FrameType
from virtrng.keys.entropykey.session import ZERO_KEY, Session
from virtrng.sim.entropykey import (
    BLOCK_S,
    RATE_BYTES_PER_S,
    SERIAL,
    SimulatedEntropyKey,
    SimulatedTransport,
    seeded_noise,
    simulated,
)

REAL_SERIAL = "NwBvBlg3OTBJORFD"
LONG_TERM_KEY = bytes.fromhex("0b5941a541f7e976311d1e10570f1bd9357e6da48c2c8ad7e8945b329820e978")
FIRST_K = b"KAAAAALCxsrO0tba3."
SECOND_K = b"KAQAAALi5uru8vb6/."
SERIAL_FRAME = b"* S!AANwBvBlg3OTBJORFD                                Al/Smw1b\r\n"
READY_FRAME = b"* k>Unable to send entropy. Please re-key session.    VqrrSb4k\r\n"
FIRST_ANSWER = b"* K!MAgIGCg4SFhoeIiYqLjI2Oj5CRkpOUlZaXmJmam5ydnp8=    fTxxpu4w\r\n"


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


def fixed(*pieces: bytes) -> Callable[[int], bytes]:
    """Return these pieces one after another, then zeros."""
    left = list(pieces)
    return lambda size: left.pop(0) if left else bytes(size)


def firmware(
    noise: Callable[[int], bytes] = bytes, rate_bytes_per_s: float = RATE_BYTES_PER_S
) -> SimulatedEntropyKey:
    return SimulatedEntropyKey(
        long_term_key=LONG_TERM_KEY,
        now_s=0.0,
        serial=REAL_SERIAL,
        rate_bytes_per_s=rate_bytes_per_s,
        noise=noise,
        device_entropy=fixed(bytes(range(0x80, 0xA0)), bytes(range(0x20, 0x40))),
    )


def blocks(key: SimulatedEntropyKey, count: int) -> list[bytes]:
    """Let so many blocks pass, and return their frames."""
    taken = b""
    for _ in range(count):
        key.advance(key.next_due_s)
        taken += key.take(1 << 20)
    return split(taken)


def split(stream: bytes) -> list[bytes]:
    assert len(stream) % 64 == 0
    return [stream[at : at + 64] for at in range(0, len(stream), 64)]


def kinds(frames: list[bytes]) -> list[bytes]:
    return [frame[2:4] for frame in frames]


def test_it_says_its_serial_when_switched_on() -> None:
    assert firmware().take(1000) == SERIAL_FRAME


@pytest.mark.parametrize("command", [b"\x03", b"R", b"r"])
def test_a_reset_is_answered_by_the_serial(command: bytes) -> None:
    key = firmware()
    key.take(64)
    key.receive(command)
    assert key.take(1000) == SERIAL_FRAME


def test_without_a_session_each_block_is_announced_once() -> None:
    key = firmware()
    key.take(64)
    frames = blocks(key, 4)
    assert frames[1:] == [READY_FRAME] * 4
    assert frames[0] == b"* I>S08052:23751:23792:23584:07112:20876:08063:24150:0Sr3rR9o3\r\n"


def test_a_session_and_its_first_frames_are_those_of_the_vectors() -> None:
    key = firmware(fixed(bytes(range(0xC0, 0xE0)), bytes(32)))
    key.take(64)
    key.receive(FIRST_K)
    assert key.take(1000) == FIRST_ANSWER
    frames = blocks(key, 1)
    assert kinds(frames) == [b"I>"] + [b"E!"] * 78
    assert frames[1] == b"* E!AA9sZ45SR9Snt8n05Lld0uA9+5H52r9xByHTSth8VUtzs=    Y/p9NVie\r\n"
    assert frames[2] == b"* E!BA7o3aHpCLN+U7w/0fRKm8JTTk7LM7huTAmFR2ux4BKe0=    LymCGd1H\r\n"


def test_a_second_session_is_agreed_on_under_the_first() -> None:
    key = firmware()
    key.take(64)
    key.receive(FIRST_K.lower().replace(b"kaaaaalcxsro0tba3", b"kAAAAALCxsrO0tba3"))
    key.take(64)
    key.receive(SECOND_K)
    assert key.take(64) == b"* K!MAICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=    a4UgqA+0\r\n"
    assert blocks(key, 1)[1][4:6] == b"AA"


def test_a_session_ends_at_4095_and_then_each_block_is_announced() -> None:
    key = firmware()
    key.take(64)
    key.receive(FIRST_K)
    key.take(64)
    frames = [frame for frame in blocks(key, 55) if frame[2:4] != b"I>"]
    assert kinds(frames) == [b"E!"] * 4096 + [b"k>"] * 2
    assert frames[4095][4:6] == b"//"
    assert frames[4096] == b"* k>Unable to send entropy. Please re-key session.    XuT8vnvl\r\n"


def test_a_fast_key_asks_for_a_session_no_more_often_than_a_real_one() -> None:
    key = firmware(rate_bytes_per_s=10 * RATE_BYTES_PER_S)
    key.take(64)
    assert [frame for frame in blocks(key, 40) if frame[2:4] == b"k>"] == [READY_FRAME] * 4
    key.receive(FIRST_K)
    key.take(64)
    frames = [frame for frame in blocks(key, 63) if frame[2:4] != b"I>"]
    assert kinds(frames) == [b"E!"] * 4096 + [b"k>"]


def test_the_real_pace() -> None:
    key = firmware()
    assert key.next_due_s == pytest.approx(BLOCK_S)
    assert pytest.approx(4026, abs=1) == RATE_BYTES_PER_S


@pytest.mark.parametrize("rate_bytes_per_s", [16.0, 100.0, 2000.0, 4000.0, 40000.0])
def test_the_pace_is_the_rate_and_no_block_is_long_in_coming(rate_bytes_per_s: float) -> None:
    key = firmware(rate_bytes_per_s=rate_bytes_per_s)
    key.receive(FIRST_K)
    key.take(1000)
    assert key.next_due_s <= 2.0
    frames = blocks(key, 20)
    assert kinds(frames).count(b"E!") * 32 / (key.next_due_s * 20 / 21) == pytest.approx(rate_bytes_per_s)


def test_nothing_comes_before_it_is_due() -> None:
    key = firmware()
    key.take(64)
    key.advance(BLOCK_S - 0.001)
    assert key.take(64) == b""


def test_information_comes_in_rotation_statistics_first() -> None:
    key = firmware()
    key.take(64)
    information = [frame[4:5] for frame in blocks(key, 20) if frame[2:4] == b"I>"]
    assert information == [b"S", b"T", b"F", b"S"]


def test_a_host_that_does_not_read_stops_the_key() -> None:
    key = firmware()
    key.advance(1e9)
    assert 2 * 64 <= len(key.take(1 << 20)) <= 500 * 64
    assert 1e9 < key.next_due_s <= 1e9 + 1.0


@pytest.mark.parametrize(
    "junk",
    [
        b"x",
        b"e",
        b".",
        b"\n",
        b"\x00",
        b"\xff",
        b"K?",
        b"KAAA.",
        b"KA\x80",
        b"L?",
        b"LAAA.",
        b"MAA=",
        b"MAA.",
    ],
)
def test_unexpected_input_is_answered_and_the_rest_of_the_packet_dropped(junk: bytes) -> None:
    key = firmware()
    key.take(64)
    key.receive(junk + b"zz\x03" + FIRST_K)
    (frame,) = FrameReader().feed(key.take(1000))
    assert frame is not None
    assert frame.text == f"Unknown Input Character 0x{junk[-1]:02x}"
    assert Session(base64.b64decode(REAL_SERIAL), ZERO_KEY).verifies(frame)
    key.receive(FIRST_K)
    assert key.take(1000) == FIRST_ANSWER


def test_the_unexpected_input_frame_of_a_real_key() -> None:
    key = firmware()
    key.take(64)
    key.receive(b"e")
    assert key.take(64) == b"* W>Unknown Input Character 0x65                      TRNC7UwS\r\n"


def test_a_command_may_come_in_several_packets() -> None:
    key = firmware()
    key.take(64)
    for byte in FIRST_K:
        key.receive(bytes((byte,)))
    assert key.take(1000) == FIRST_ANSWER


def test_a_reset_drops_half_a_command() -> None:
    key = firmware()
    key.take(64)
    key.receive(FIRST_K[:10] + b"\x03" + FIRST_K)
    assert key.take(1000) == SERIAL_FRAME + FIRST_ANSWER


@pytest.mark.parametrize(("length", "sub_code"), [(0, b"AA"), (1, b"BA"), (4095, b"//")])
def test_nonce_lengths(length: int, sub_code: bytes) -> None:
    key = firmware()
    key.take(64)
    key.receive(b"K" + base64.b64encode(bytes(length)) + b".")
    assert key.take(64)[2:6] == b"K!" + sub_code


def test_a_nonce_that_is_too_long() -> None:
    key = firmware()
    key.take(64)
    key.receive(b"K" + base64.b64encode(bytes(4096)) + b".")
    assert key.take(64)[2:4] == b"W>"


def test_a_failed_key_says_why_and_gives_no_entropy_until_it_is_switched_off() -> None:
    key = firmware()
    key.receive(FIRST_K)
    key.take(1000)
    key.fail("8")
    frames = blocks(key, 3)
    assert [frame[2:5] for frame in frames] == [b"I>S"] * 3
    assert all(frame[53:54] == b"8" for frame in frames)
    key.receive(b"\x03" + FIRST_K)
    frames = split(key.take(1000)) + blocks(key, 1)
    assert kinds(frames) == [b"S!", b"B>", b"I>"]


def test_noise_is_repeatable_from_its_seed_and_never_repeats_itself() -> None:
    one, same, other = seeded_noise(bytes(32)), seeded_noise(bytes(32)), seeded_noise(b"\1" * 32)
    pieces = [one(32) for _ in range(100)]
    assert pieces == [same(32) for _ in range(100)]
    assert len(set(pieces)) == 100
    assert other(32) not in pieces
    assert len(one(2500)) == 2500


def test_the_default_serial_says_that_it_is_simulated() -> None:
    assert SERIAL == "SIMULATED+KEY/01"
    assert len(base64.b64decode(SERIAL, validate=True)) == 12


def test_the_transport_waits_for_what_is_due() -> None:
    clock = Clock()
    transport, long_term_key = simulated(clock=clock, sleep=clock.sleep)
    assert transport.simulated
    assert transport.key == f"entropykey:serial={SERIAL}"
    assert len(long_term_key) == 32
    assert transport.read(64, 0)[2:4] == b"S!"
    assert transport.read(64, 0) == b""
    assert transport.read(64, 100) == b""
    assert clock() == pytest.approx(50.1)
    assert transport.read(64, 10_000)[2:4] == b"I>"
    assert clock() == pytest.approx(50.0 + BLOCK_S)
    assert transport.read(10, 0) == b"* k>Unable"
    transport.write(FIRST_K, 1000)
    assert transport.read(1000, 0)[54:].endswith(b"\r\n")


def test_every_simulated_key_has_a_long_term_key_of_its_own() -> None:
    clock = Clock()
    keys = {simulated(clock=clock, sleep=clock.sleep)[1] for _ in range(3)}
    assert len(keys) == 3


def test_what_simulated_keys_say_differs() -> None:
    clock = Clock()
    streams = set()
    for _ in range(2):
        transport, _ = simulated(clock=clock, sleep=clock.sleep)
        transport.write(FIRST_K, 1000)
        streams.add(transport.read(1000, 0)[64:])
    assert len(streams) == 2


def test_a_closed_transport() -> None:
    transport = SimulatedTransport(firmware(), clock=Clock())
    transport.close()
    transport.close()
    with pytest.raises(KeyLost, match="being read"):
        transport.read(64, 0)
    with pytest.raises(KeyLost, match="being written to"):
        transport.write(b"\x03", 1000)


def test_every_frame_is_well_formed_and_verifies() -> None:
    key = firmware()
    items = FrameReader().feed(b"".join(split(key.take(1000)) + blocks(key, 20)))
    zero = Session(base64.b64decode(REAL_SERIAL), ZERO_KEY)
    assert all(item and item.type is not FrameType.UNKNOWN and zero.verifies(item) for item in items)


def test_plugged_in_again_it_begins_anew_but_knows_its_long_term_key() -> None:
    clock = Clock()
    transport, long_term_key = simulated(clock=clock, sleep=clock.sleep)
    firmware = transport._firmware
    clock.sleep(100.0)
    firmware.advance(clock())
    firmware.plug_in(clock())
    assert firmware.take(1000)[2:4] == b"S!"
    assert firmware.take(1000) == b""
    assert firmware.next_due_s == clock() + BLOCK_S
    key = EntropyKey(transport, lambda _: long_term_key, min_entropy=0.5, clock=clock)
    key.start()
    assert key.read(10_000) is not None
