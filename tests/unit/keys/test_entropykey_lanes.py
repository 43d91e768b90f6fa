# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many messages side by side: the bits of the plain Skein, whatever their number."""

import base64
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from tests.unit.keys.test_entropykey_vectors import SERIAL, SESSION_KEY, V6, parsed
from virtrng.keys.entropykey.frames import Frame, FrameReader, encode_sub_code
from virtrng.keys.entropykey.lanes import LANES_MAX, final_pads, finals
from virtrng.keys.entropykey.session import (
    LAST_SEQUENCE,
    PADS_AHEAD,
    ZERO_KEY,
    Personalisation,
    Session,
    truncate,
)
from virtrng.keys.entropykey.skein import Prepared, prepare

if TYPE_CHECKING:
    from tests.unit.keys.conftest import Rig

SIZES = (0, 1, 2, 77, 78, 79, LANES_MAX - 1, LANES_MAX, LANES_MAX + 1, 1024, 4096)
AUTHENTICATION = prepare(SERIAL, SESSION_KEY, Personalisation.AUTHENTICATION.value)
ENCRYPTION = prepare(SERIAL, SESSION_KEY, Personalisation.ENCRYPTION.value)
SUB_CODES = [encode_sub_code(number) for number in range(4096)]

# Carries run furthest in words of ones, and masks err at the ends of a word.
words = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from((0, 1, 2**63, 2**64 - 1)))
states = st.builds(Prepared, st.tuples(words, words, words, words))
messages = st.integers(0, 100).flatmap(
    lambda length: st.lists(
        st.one_of(st.binary(min_size=length, max_size=length), st.just(b"\xff" * length)), max_size=12
    )
)


@cache
def plain_pads() -> list[bytes]:
    return [ENCRYPTION.final(each) for each in SUB_CODES]


@cache
def covered() -> list[bytes]:
    device = Session(SERIAL, SESSION_KEY)
    return [device.encrypt(number, number.to_bytes(32, "little")) for number in range(4096)]


@cache
def plain_macs() -> list[bytes]:
    return [AUTHENTICATION.final_pad(each) for each in covered()]


@pytest.mark.parametrize("size", SIZES)
def test_any_number_of_pads(size: int) -> None:
    assert finals(ENCRYPTION, SUB_CODES[:size]) == plain_pads()[:size]


@pytest.mark.parametrize("size", SIZES)
def test_any_number_of_macs(size: int) -> None:
    assert final_pads(AUTHENTICATION, covered()[:size]) == plain_macs()[:size]


@settings(derandomize=True, max_examples=scaled(100))
@given(prepared=states, batch=messages)
def test_any_state_and_messages(prepared: Prepared, batch: list[bytes]) -> None:
    assert finals(prepared, batch) == [prepared.final(each) for each in batch]
    assert final_pads(prepared, batch) == [prepared.final_pad(each) for each in batch]


def test_v6_side_by_side() -> None:
    frames = [parsed(line) for _, _, line in V6]
    macs = final_pads(AUTHENTICATION, [frame.covered for frame in frames])
    assert [truncate(mac) for mac in macs] == [frame.mac for frame in frames]
    pads = finals(ENCRYPTION, [encode_sub_code(number) for number, _, _ in V6])
    for (_, plain, line), pad in zip(V6, pads, strict=True):
        cipher = base64.b64decode(line[6:54].rstrip())
        assert bytes(a ^ b for a, b in zip(cipher, pad, strict=True)) == plain


def test_messages_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        finals(ENCRYPTION, [b"ab", b"abc"])


# --- a session that uses them


@pytest.mark.parametrize("first", [0, 1, PADS_AHEAD - 1, LAST_SEQUENCE - 3])
def test_pads_made_ahead_are_those_of_their_numbers(first: int) -> None:
    host = Session(SERIAL, SESSION_KEY)
    for number in (first, first + 1, first + 3):
        block = host.encrypt(number, bytes(32))
        assert base64.b64decode(block[4:].rstrip()) == plain_pads()[number]


def test_a_whole_session_with_gaps() -> None:
    host, device = Session(SERIAL, SESSION_KEY), Session(SERIAL, SESSION_KEY)
    for number in [*range(0, 300, 7), *range(1000, 1000 + 2 * PADS_AHEAD), LAST_SEQUENCE]:
        plain = number.to_bytes(32, "big")
        (frame,) = FrameReader().feed(device.frame(device.encrypt(number, plain)))
        assert frame is not None
        assert host.verifies(frame)
        assert host.decrypt(frame) == plain
        assert host.decrypt(frame) is None


edits = st.lists(st.tuples(st.integers(0, 19), st.integers(2, 61), st.integers(1, 255)), max_size=10)


@settings(derandomize=True, max_examples=scaled(50))
@given(plan=edits, doubled=st.integers(0, 19))
def test_what_verifies_in_a_batch_verifies_alone(plan: list[tuple[int, int, int]], doubled: int) -> None:
    sent = [bytearray(Session(SERIAL, SESSION_KEY).frame(each)) for each in covered()[:20]]
    for at, where, by in plan:
        sent[at][where] ^= by
    sent.append(sent[doubled])
    batch = FrameReader().feed(b"".join(sent))
    frames = [frame for frame in batch if frame is not None]
    together = Session(SERIAL, SESSION_KEY)
    verdicts = [together.verifies(frame, batch) for frame in frames]
    assert verdicts == [Session(SERIAL, SESSION_KEY).verifies(frame) for frame in frames]
    assert sum(verdicts) >= 20 - len(plan)


def test_no_session_believes_what_another_has_computed() -> None:
    batch: list[Frame | None] = [parsed(line) for _, _, line in V6]
    ours, other = Session(SERIAL, SESSION_KEY), Session(SERIAL, ZERO_KEY)
    for frame in batch:
        assert frame is not None
        assert ours.verifies(frame, batch)
        assert not other.verifies(frame, batch)


def test_a_frame_that_is_not_in_the_batch_is_verified_all_the_same() -> None:
    *others, last = (parsed(line) for _, _, line in V6)
    host = Session(SERIAL, SESSION_KEY)
    assert host.verifies(others[0], [None, *others])
    assert host.verifies(last, others)
    assert host.verifies(last)


# --- a driver whose reads bring many frames


def test_a_new_key_in_the_middle_of_a_batch(make_rig: "type[Rig]") -> None:
    """One read brings 78 E frames, the answer to a repeated K, and 78 E frames under its key."""
    rig = make_rig(read_bytes=1 << 16)
    rig.key.start()
    rig.key._rekeys_open += 1
    for _ in range(2):
        rig.clock.sleep(0.63)
        rig.firmware.advance(rig.clock())
        rig.wire.inner.write(rig.wire.written[-1], 1000)
    reads = [rig.key.read(0) for _ in range(3)]
    assert len(rig.encrypted) == 2 * 78
    assert [len(noise.data) if noise else 0 for noise in reads] == [0, 0, 32 * 2 * 78]
    assert b"".join(noise.data for noise in reads if noise) == b"".join(rig.encrypted)
    counters = rig.key.counters
    # The K after the second block is one too many, and so is its answer.
    assert (counters.sessions, counters.resets, counters.frames_bad) == (2, 1, 1)


def test_a_reset_in_the_middle_of_a_batch(make_rig: "type[Rig]") -> None:
    """Eight bad frames cost a reset: what comes after them in the same read belongs to nobody."""
    rig = make_rig(read_bytes=1 << 16)
    rig.running(78 * 32)
    rig.wire.tamper = lambda frame: frame[:54] + b"AAAAAAAA" + frame[62:] if frame[2:4] == b"E!" else frame
    rig.clock.sleep(0.63)
    assert rig.key.read(0) is None
    assert (rig.key.counters.frames_bad, rig.resets) == (8, 2)
    rig.wire.tamper = lambda frame: frame
    assert rig.collect(3200)[-320:] in b"".join(rig.encrypted)
    assert (rig.key.counters.frames_bad, rig.resets) == (8, 2)


def test_four_sessions_in_large_reads(make_rig: "type[Rig]") -> None:
    rig = make_rig(read_bytes=1 << 16)
    rig.key.start()
    emitted = rig.collect(3 * 4096 * 32 + 320)
    assert emitted == b"".join(rig.encrypted)[: len(emitted)]
    counters = rig.key.counters
    assert (counters.sessions, counters.resets, counters.frames_bad) == (4, 1, 0)
