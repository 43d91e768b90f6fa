# SPDX-License-Identifier: LGPL-2.1-or-later
"""The noise of a simulated key that goes bad: what tests see of it, and that it repeats with its seed."""

import math
from collections.abc import Callable

import pytest

from tests.unit.sim.test_sim_faults import Rig
from virtrng.entropy.fips140 import Fips140
from virtrng.entropy.health import HealthTests
from virtrng.entropy.params import BLOCK_BYTES, WHITENED_MIN_ENTROPY, WORD_BYTES
from virtrng.sim.entropykey import seeded_noise
from virtrng.sim.noise import (
    DRIFT_BYTES,
    FAILURES,
    LONG_CYCLE_BYTES,
    MEMORY_BYTES,
    REPLAY_BYTES,
    SHORT_CYCLE_BYTES,
    Generator,
)

PIECE_BYTES = 32
BLOCKS = 100


def source() -> Callable[[int], bytes]:
    return seeded_noise(b"noise that goes bad, for its test")


def failing(name: str) -> Generator:
    generator = Generator(source())
    generator.fail(name)
    return generator


def given(generator: Generator, size: int) -> bytes:
    """Return the next bytes, drawn as the firmware draws them."""
    pieces = [generator(PIECE_BYTES) for _ in range(size // PIECE_BYTES)]
    return b"".join([*pieces, generator(size % PIECE_BYTES)])


def ones(noise: bytes) -> float:
    return int.from_bytes(noise, "big").bit_count() / (8 * len(noise))


def failed_blocks(generator: Generator) -> int:
    """Count those of the next BLOCKS that fail FIPS 140-2."""
    fips = Fips140(generator(WORD_BYTES))
    return sum(bool(fips.test(given(generator, BLOCK_BYTES))) for _ in range(BLOCKS))


def test_sound_it_is_its_source() -> None:
    plain = source()
    assert given(Generator(source()), 10_000)[:96] == plain(32) + plain(32) + plain(32)


def test_stuck() -> None:
    assert given(failing("stuck"), 100) == bytes(100)
    assert HealthTests(WHITENED_MIN_ENTROPY).feed(bytes(PIECE_BYTES)) == {"repetition_count"}


@pytest.mark.parametrize(("name", "part"), [("biased-51", 0.51), ("biased-52", 0.52), ("biased-60", 0.6)])
def test_a_bias_is_that_of_each_bit_by_itself(name: str, part: float) -> None:
    noise = given(failing(name), 500_000)
    number, bits = int.from_bytes(noise, "big"), 8 * len(noise)
    # Five standard deviations of a fair count, or 1 in 3 million.
    near = 5 * math.sqrt(bits * part * (1 - part)) / bits
    assert abs(ones(noise) - part) < near
    for lag in (1, 2, 8, 256):
        both = (number & number >> lag).bit_count() / (bits - lag)
        assert abs(both - part**2) < 2 * near
    assert HealthTests(WHITENED_MIN_ENTROPY).feed(noise) == frozenset()


def test_the_block_tests_see_a_bias() -> None:
    # Of many blocks it is 16 % at 51 %, 96 % at 52 %, and all at 60 %.
    assert 5 <= failed_blocks(failing("biased-51")) <= 30
    assert failed_blocks(failing("biased-52")) >= 88
    assert failed_blocks(failing("biased-60")) == BLOCKS


def test_a_drift_begins_as_nothing_and_ends_as_a_bias() -> None:
    generator = failing("drift")
    parts = [ones(given(generator, DRIFT_BYTES // 10)) for _ in range(12)]
    middles = [0.505 + 0.01 * min(number, 9.5) for number in range(12)]
    # Seven standard deviations of two million bits.
    assert all(abs(part - middle) < 0.0025 for part, middle in zip(parts, middles, strict=True))


@pytest.mark.parametrize(
    ("name", "period"), [("short-cycle", SHORT_CYCLE_BYTES), ("long-cycle", LONG_CYCLE_BYTES)]
)
def test_a_cycle_repeats(name: str, period: int) -> None:
    noise = given(failing(name), 5 * period + 7)
    assert noise[:-period] == noise[period:]
    assert len({noise[at : at + 16] for at in range(period)}) == period


def test_the_block_tests_see_a_short_cycle_and_no_long_one() -> None:
    assert failed_blocks(failing("short-cycle")) == BLOCKS
    assert failed_blocks(failing("long-cycle")) <= BLOCKS // 10


def test_a_replay_is_what_it_sent_before_once() -> None:
    generator, plain = Generator(source()), Generator(source())
    before = given(generator, 2 * MEMORY_BYTES)
    assert before == given(plain, 2 * MEMORY_BYTES)
    generator.fail("replay")
    assert given(generator, REPLAY_BYTES) == before[-MEMORY_BYTES:][:REPLAY_BYTES]
    assert given(generator, 10_000) == given(plain, 10_000)


def test_a_replay_waits_until_there_is_enough() -> None:
    generator = failing("replay")
    noise = given(generator, MEMORY_BYTES + REPLAY_BYTES)
    assert noise[MEMORY_BYTES:] == noise[:REPLAY_BYTES]
    assert noise[REPLAY_BYTES : 2 * REPLAY_BYTES] != noise[:REPLAY_BYTES]


def test_no_block_of_the_hosts_comes_twice_in_a_replay() -> None:
    assert MEMORY_BYTES % BLOCK_BYTES
    assert REPLAY_BYTES > 2 * BLOCK_BYTES


def test_half_dead_looks_perfect_and_is_half_of_its_source() -> None:
    drawn: list[int] = []
    noise = source()

    def counted(size: int) -> bytes:
        drawn.append(size)
        return noise(size)

    generator = Generator(counted)
    generator.fail("half-dead")
    whitened = given(generator, BLOCKS * BLOCK_BYTES)
    assert sum(drawn) == len(whitened) // 2
    assert HealthTests(1.0).feed(whitened) == frozenset()
    assert failed_blocks(generator) <= 1


@pytest.mark.parametrize("name", FAILURES)
def test_it_repeats_with_its_source_and_recovers(name: str) -> None:
    one, other = failing(name), failing(name)
    assert given(one, 50_000) == given(other, 50_000)
    one.recover()
    other.fail("stuck")
    other.recover()
    sound = given(one, 20_000)
    assert sound == given(other, 20_000)
    assert abs(ones(sound) - 0.5) < 0.007


# --- by the firmware


def test_noise_that_goes_bad_is_authenticated_as_any() -> None:
    rig = Rig("stuck@2").run(6)
    assert (rig.driver.counters.frames_bad, rig.driver.counters.resets) == (0, 1)
    begins = rig.emitted.index(bytes(PIECE_BYTES))
    assert rig.emitted[:begins] == rig.encrypted[:begins]
    assert set(rig.emitted[begins:]) == {bytes(PIECE_BYTES)}
    assert 100 < begins < len(rig.emitted) - 100


def test_noise_goes_bad_by_chance() -> None:
    rig = Rig("stuck@1%").run(3)
    assert rig.emitted[0] != rig.emitted[-1] == bytes(PIECE_BYTES)


def test_what_recovers_is_as_it_was() -> None:
    rig = Rig("biased-60@1", "recover@3").run(6)
    assert rig.emitted[-1] in rig.encrypted
    assert abs(ones(b"".join(rig.emitted[-200:])) - 0.5) < 0.02
    assert abs(ones(b"".join(rig.emitted[200:300])) - 0.6) < 0.03
