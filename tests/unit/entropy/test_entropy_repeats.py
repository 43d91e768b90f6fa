# SPDX-License-Identifier: LGPL-2.1-or-later
"""Noise that came before: cycles of any length, replays at any offset, and how long it is remembered."""

import random
from collections.abc import Iterator
from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from virtrng.entropy.params import BLOCK_BYTES, REPEAT_TESTS, REPLAY_MARK, REPLAY_SLOTS
from virtrng.entropy.repeats import Repeats

NONE: frozenset[str] = frozenset()
ONE_VALUE, CYCLE, REPLAY = REPEAT_TESTS


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def unmarked(seed: int, size: int) -> bytes:
    """Return noise in which no window begins: what the search for cycles alone must find."""
    return noise(seed, size).replace(REPLAY_MARK, b"\x5b")


def blocks(stream: bytes) -> Iterator[bytes]:
    return (stream[at : at + BLOCK_BYTES] for at in range(0, len(stream) - BLOCK_BYTES + 1, BLOCK_BYTES))


def found(stream: bytes, repeats: Repeats | None = None) -> list[frozenset[str]]:
    repeats = repeats or Repeats()
    return [repeats.test(block) for block in blocks(stream)]


def test_noise_does_not_repeat() -> None:
    assert set(found(noise(1, 2000 * BLOCK_BYTES))) == {NONE}


@pytest.mark.parametrize("size", [0, BLOCK_BYTES - 1, BLOCK_BYTES + 1])
def test_a_block_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"not {size}"):
        Repeats().test(bytes(size))


# --- cycles


@pytest.mark.parametrize("value", [0x00, 0x55, 0xFF])
def test_one_value_is_found_in_the_first_block(value: int) -> None:
    assert found(bytes([value]) * BLOCK_BYTES) == [{ONE_VALUE}]


@pytest.mark.parametrize("length", [*range(2, 40), 63, 64, 65, 100, 512, 999, 1024, 1249, 1250])
def test_a_cycle_up_to_half_a_block_is_found_in_the_first_block(length: int) -> None:
    cycle = unmarked(length, length)
    assert found((cycle * BLOCK_BYTES)[:BLOCK_BYTES]) == [{CYCLE}]


@pytest.mark.parametrize("length", [1251, 2048, 2499, 2500, 2501, 3000, 3749, 3750])
def test_a_cycle_up_to_one_block_and_a_half_is_found_in_the_second(length: int) -> None:
    cycle = unmarked(length, length)
    at_second = found((cycle * 8)[: 2 * BLOCK_BYTES])[1]
    # Longer than half of what is there, it has not come round.
    assert at_second == ({CYCLE} if length <= 3750 else NONE)
    assert CYCLE in found((cycle * 8)[: 3 * BLOCK_BYTES])[2]


@pytest.mark.parametrize("length", [3751, 4096, 5000, 9999, 65_536, 1_000_003])
def test_a_longer_cycle_is_found_in_its_second_round(length: int) -> None:
    results = found(noise(length, length) * 2 + bytes(BLOCK_BYTES))
    first = next(number for number, result in enumerate(results) if result)
    assert results[first] == {REPLAY}
    assert length // BLOCK_BYTES <= first <= length // BLOCK_BYTES + 2


def test_equal_beginnings_hide_no_cycle() -> None:
    # The half that is searched for begins with zeros; so do three more places of the cycle, which are not it.
    cycle = bytes(40) + b"\x01" + bytes(40) + b"\x02" + bytes(300) + unmarked(3, 918)
    assert len(cycle) == 1300
    stream = cycle * 4
    assert found(stream[50 : 50 + 2 * BLOCK_BYTES])[1] == {CYCLE}


def test_a_stretch_of_one_value_that_is_no_half_block_is_none() -> None:
    block = noise(4, BLOCK_BYTES)
    assert found(block[:1251] + bytes(BLOCK_BYTES - 1251)) == [NONE]
    assert found(bytes(1250) + block[1250:]) == [NONE]
    assert found(block[:1249] + bytes(BLOCK_BYTES - 1249)) == [{ONE_VALUE}]


# --- replays


@pytest.mark.parametrize("offset", [0, 1, 7, 1000, 1250, 2499])
def test_a_block_that_came_before_is_found_at_any_offset(offset: int) -> None:
    stream = noise(5, 200 * BLOCK_BYTES)
    old = stream[30 * BLOCK_BYTES : 31 * BLOCK_BYTES]
    later = noise(6, offset) + old + noise(7, 2 * BLOCK_BYTES)
    results = found(stream + later)
    assert set(results[:200]) == {NONE}
    assert {REPLAY} in results[200:202]


def test_a_window_across_two_blocks_is_one() -> None:
    window = REPLAY_MARK + unmarked(8, 31)
    filler = iter(unmarked(number, BLOCK_BYTES) for number in range(10, 20))
    for split in (1, 16, 31):
        repeats = Repeats()
        stream = window + next(filler)[32:] + next(filler)[:-split] + window + next(filler)[32 - split :]
        assert found(stream, repeats) == [NONE, NONE, {REPLAY}]


def test_what_differs_in_one_bit_is_no_replay() -> None:
    window = REPLAY_MARK + unmarked(8, 31)
    other = window[:-1] + bytes([window[-1] ^ 1])
    assert found(window + unmarked(9, 2468) + other + unmarked(10, 2468)) == [NONE, NONE]


def test_how_long_a_window_is_remembered() -> None:
    """One is still known after n more with the chance exp(-n / slots), here n about half the slots."""
    windows = [REPLAY_MARK + unmarked(number, 31) for number in range(REPLAY_SLOTS // 2)]
    each = BLOCK_BYTES // 32
    pad = unmarked(12, BLOCK_BYTES)
    repeats = Repeats()
    for at in range(0, len(windows), each):
        block = b"".join(windows[at : at + each])
        assert repeats.test(block + pad[len(block) :]) == NONE
    known = [repeats.test(one + unmarked(20 + n, BLOCK_BYTES - 32)) for n, one in enumerate(windows[:400])]
    assert set(known) == {NONE, frozenset({REPLAY})}
    assert abs(known.count(frozenset({REPLAY})) / 400 - exp(-0.5)) < 0.1  # four times its deviation


def test_blocks_of_two_hours_ago_are_known() -> None:
    """At 4 kB/s that is 11,520 of them; each has 9.8 windows, and one suffices."""
    repeats = Repeats()
    source, old = random.Random(13), noise(14, 40 * BLOCK_BYTES)
    assert set(found(old, repeats)) == {NONE}
    for _ in range(11_520):
        repeats.test(source.randbytes(BLOCK_BYTES))
    assert found(b"x" * 77 + old, repeats).count(frozenset({REPLAY})) >= 38


# --- anything


@given(st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 3000)), max_size=20), st.integers(0, 99))
@settings(derandomize=True, max_examples=scaled(60))
def test_whatever_comes_it_answers(pieces: list[bytes | int], seed: int) -> None:
    stream = b"".join(p * 200 if isinstance(p, bytes) else noise(seed, p) for p in pieces)
    for result in found(stream + bytes(BLOCK_BYTES)):
        assert result <= set(REPEAT_TESTS)
        assert not {ONE_VALUE, CYCLE} <= result
