# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real bits through a key's life: every way of going bad that can be seen."""

import hashlib
from collections.abc import Callable

import pytest

from tests.scale import scaled
from tests.unit.feeder.life_rig import Rig, biased
from virtrng.entropy.params import BLOCK_BYTES
from virtrng.feeder.states import SUSPECT_BLOCKS, State

PACE_BYTES_PER_S = 4000


def admitted(seed: int) -> Rig:
    """Return a life that is OK, and a source of its own."""
    rig = Rig()
    rig.source.seed(seed)
    rig.play("ccccc")
    assert rig.is_in(State.OK)
    return rig


def blocks_until(rig: Rig, state: State, block: Callable[[], bytes], most: int) -> int:
    """Feed until it is in that state; return after how many blocks, or fail after `most`."""
    for number in range(1, most + 1):
        rig.now_s += BLOCK_BYTES / PACE_BYTES_PER_S
        rig.take(block())
        if rig.is_in(state):
            return number
    raise AssertionError(f"{rig.life.state} after {most} blocks: {rig.life.reason}")


@pytest.mark.parametrize("seed", range(scaled(40)))
def test_noise_biased_to_052_is_caught_within_ten_blocks(seed: int) -> None:
    rig = admitted(seed)
    passed = 0
    for _ in range(10):
        passed += len(rig.take(biased(rig.source, 0.52 if seed % 2 else 0.48)))
        if not rig.is_in(State.OK):
            break
    assert rig.is_in(State.SUSPECT)
    assert passed <= 4


def test_a_key_that_stays_biased_is_failed_within_minutes() -> None:
    rig = admitted(9)
    began_s = rig.now_s
    blocks_until(rig, State.FAILED, lambda: biased(rig.source, 0.52), 400)
    assert rig.now_s - began_s < 240
    assert rig.life.quarantines == 3


@pytest.mark.parametrize("ones", [0.4, 0.45, 0.55, 0.6, 0.75, 0.95])
def test_a_heavier_bias_is_caught_by_every_block(ones: float) -> None:
    rig = admitted(1)
    assert blocks_until(rig, State.SUSPECT, lambda: biased(rig.source, ones), 5) <= 5
    assert blocks_until(rig, State.QUARANTINE, lambda: biased(rig.source, ones), 3) <= 3


@pytest.mark.parametrize("ones", [0.49, 0.51])
@pytest.mark.parametrize("seed", range(scaled(4)))
def test_noise_biased_to_051_is_caught_within_two_minutes(ones: float, seed: int) -> None:
    rig = admitted(seed)
    assert blocks_until(rig, State.SUSPECT, lambda: biased(rig.source, ones), 190) > 10
    blocks_until(rig, State.QUARANTINE, lambda: biased(rig.source, ones), SUSPECT_BLOCKS)


def test_a_slow_drift_is_caught_before_it_is_a_bias_of_0515() -> None:
    rig, leaning = admitted(2), 0.5

    def drifting() -> bytes:
        nonlocal leaning
        leaning += 0.02 / 2000  # by 0.02 in 21 minutes
        return biased(rig.source, leaning)

    blocks_until(rig, State.SUSPECT, drifting, 2000)
    assert 0.503 < leaning < 0.515


def test_neighbours_that_are_too_often_alike_are_caught() -> None:
    rig = admitted(3)

    def sticky() -> bytes:
        """Return bits each of which is like the one before it with the chance 0.53."""
        changes = int.from_bytes(biased(rig.source, 0.47), "big")
        for shift in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384):
            changes ^= changes >> shift
        return changes.to_bytes(BLOCK_BYTES, "big")

    blocks_until(rig, State.SUSPECT, sticky, 10)
    blocks_until(rig, State.QUARANTINE, sticky, 10)


@pytest.mark.parametrize("value", [0x00, 0x01, 0x55, 0xFF])
def test_a_key_that_is_stuck_is_failed_by_its_second_block(value: int) -> None:
    rig = admitted(4)
    rig.take(rig.clean()[:600])
    assert blocks_until(rig, State.FAILED, lambda: bytes([value]) * BLOCK_BYTES, 2) <= 2
    assert "one value" in str(rig.life.reason)


LENGTHS = [
    2,
    3,
    7,
    8,
    31,
    64,
    100,
    255,
    256,
    1000,
    1250,
    1251,
    2499,
    2500,
    2501,
    3750,
    3751,
    4096,
    8192,
    65_535,
]


@pytest.mark.parametrize("length", [*LENGTHS, 65_536, 1_000_000, 8_388_607])
def test_a_cycle_is_failed_soon_after_it_has_come_round(length: int) -> None:
    rig = admitted(5)
    cycle = rig.source.randbytes(length)
    stream, at = cycle * max(3, 6 * BLOCK_BYTES // length), 0

    def cycling() -> bytes:
        nonlocal at
        at += BLOCK_BYTES
        return stream[at - BLOCK_BYTES : at]

    passed_round = length // BLOCK_BYTES
    assert blocks_until(rig, State.FAILED, cycling, passed_round + 3) > passed_round


@pytest.mark.parametrize("offset", [0, 1, 1249, 2499])
@pytest.mark.parametrize("ago", [1, 100, 6000])
def test_a_replay_is_failed_whole_blocks_or_not(offset: int, ago: int) -> None:
    rig = admitted(6)
    old = [rig.source.randbytes(BLOCK_BYTES) for _ in range(2)]
    for block in old:
        rig.take(block)
    for _ in range(ago):
        rig.take(rig.source.randbytes(BLOCK_BYTES))
    rig.take(rig.source.randbytes(offset))
    assert rig.is_in(State.OK)
    stream = b"".join(old) + rig.source.randbytes(BLOCK_BYTES)
    rig.take(stream)
    assert rig.is_in(State.FAILED)
    assert "replay" in str(rig.life.reason)


def test_a_disturbance_of_a_second_costs_minutes_and_no_more() -> None:
    rig = admitted(7)
    for _ in range(2):
        rig.take(biased(rig.source, 0.6))
    assert rig.is_in(State.OK)
    rig.take(rig.clean()[:500] + bytes(1000) + rig.clean()[1500:])
    assert rig.is_in(State.SUSPECT)
    assert blocks_until(rig, State.OK, rig.clean, 20) == 20


def test_a_dead_generator_behind_whitening_is_seen_by_nobody() -> None:
    """docs/entropy.md says so: a hash over 32 dead bytes and a counter is as good as noise."""
    rig, number = admitted(8), 0
    dead = bytes(32)

    def whitened() -> bytes:
        nonlocal number
        number += 1
        return hashlib.shake_256(dead + number.to_bytes(8, "big")).digest(BLOCK_BYTES)

    for _ in range(2000):
        rig.take(whitened())
    assert rig.is_in(State.OK)
