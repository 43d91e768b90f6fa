# SPDX-License-Identifier: LGPL-2.1-or-later
"""One key's life: start-up, blocks dropped whole, quarantine."""

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from tests.unit.feeder.blocks import BIASED, STUCK, clean
from virtrng.entropy.fips140 import check
from virtrng.entropy.health import HealthTests
from virtrng.entropy.params import BLOCK_BYTES
from virtrng.feeder import life as feeder_life
from virtrng.feeder.life import QUARANTINE_S, KeyLife, State
from virtrng.keys.base import Noise


class Rig:
    """A life, and a clock that is set by hand."""

    def __init__(self, min_entropy: float = 0.5) -> None:
        self.now_s = 100.0
        self.life = KeyLife("entropykey:serial=x", min_entropy, lambda: self.now_s)

    def is_in(self, state: State) -> bool:
        return self.life.state is state

    def take(self, data: bytes, claimed_bits: int | None = None) -> list[feeder_life.Tested]:
        bits = 4 * len(data) if claimed_bits is None else claimed_bits
        return self.life.take(Noise("entropykey:serial=x", data, bits))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_the_blocks_are_what_they_are_said_to_be() -> None:
    assert all(check(clean(number)) == frozenset() for number in range(8))
    assert check(BIASED)
    assert not HealthTests(0.5).feed(clean(0) + BIASED)
    assert "repetition_count" in HealthTests(0.5).feed(STUCK)


def test_startup_ends_with_the_first_clean_block(rig: Rig) -> None:
    assert rig.is_in(State.STARTUP)
    assert rig.take(clean(0)[:-1]) == []
    assert rig.is_in(State.STARTUP)
    assert [tested.data for tested in rig.take(clean(0)[-1:])] == [clean(0)]
    assert rig.is_in(State.OK)
    assert (rig.life.bytes_read, rig.life.blocks_tested, rig.life.blocks_failed) == (BLOCK_BYTES, 1, 0)
    assert rig.life.last_fault is None


def test_a_failed_block_at_startup_is_no_start(rig: Rig) -> None:
    assert rig.take(BIASED) == []
    assert rig.is_in(State.STARTUP)
    assert len(rig.take(clean(0))) == 1


def test_a_block_that_fails_is_dropped_whole_and_the_key_stays(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.take(clean(0))
    passed = rig.take(clean(1) + BIASED + clean(2))
    assert [tested.data for tested in passed] == [clean(1), clean(2)]
    assert rig.is_in(State.OK)
    assert (rig.life.blocks_tested, rig.life.blocks_failed) == (4, 1)
    assert rig.life.last_fault is not None
    assert rig.life.last_fault.startswith("block 3 dropped: it failed monobit")
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"entropykey:serial=x: {rig.life.last_fault}"
    ]


def test_an_alarm_is_quarantine(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.take(clean(0))
    assert [tested.data for tested in rig.take(clean(1) + STUCK + clean(2))] == [clean(1)]
    assert rig.is_in(State.QUARANTINE)
    assert rig.life.last_fault is not None
    assert "repetition_count" in rig.life.last_fault
    assert rig.life.last_fault.endswith("alarm in block 3")
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"entropykey:serial=x: {rig.life.last_fault}: nothing of it is used for 60 s"]


def test_nothing_passes_in_quarantine_and_it_comes_back_after_it(rig: Rig) -> None:
    rig.take(clean(0) + STUCK)
    for now_s in (100.0, 130.0, 100.0 + QUARANTINE_S - 0.001):
        rig.now_s = now_s
        assert rig.take(clean(1)) == []
        assert rig.is_in(State.QUARANTINE)
    rig.now_s = 100.0 + QUARANTINE_S
    assert len(rig.take(clean(2))) == 1
    assert rig.is_in(State.OK)
    assert rig.life.blocks_tested == 6


def test_another_alarm_begins_the_quarantine_anew(rig: Rig) -> None:
    rig.take(clean(0) + STUCK)
    rig.now_s += QUARANTINE_S - 1
    rig.take(STUCK)
    rig.now_s += QUARANTINE_S - 1
    assert rig.take(clean(1)) == []
    rig.now_s += 1
    assert len(rig.take(clean(2))) == 1


def test_a_failed_block_does_not_end_the_quarantine(rig: Rig) -> None:
    rig.take(clean(0) + STUCK)
    rig.now_s += QUARANTINE_S
    assert rig.take(BIASED) == []
    assert rig.is_in(State.QUARANTINE)
    assert len(rig.take(clean(1))) == 1


def test_a_run_across_two_blocks_is_an_alarm_too(rig: Rig) -> None:
    zeros = bytes(6)  # 48 bits each; the cutoff for 0.5 bit per bit at 2^-40 is 81
    rig.take(clean(0)[:-6] + zeros)
    rig.take(zeros + clean(1)[6:])
    assert rig.is_in(State.QUARANTINE)


# --- the credit


def test_the_claim_is_spread_over_the_bytes_and_only_falls(rig: Rig) -> None:
    passed = rig.take(clean(0) + clean(1) + clean(2)[:1000], claimed_bits=24_001)
    assert [tested.assessed_bits for tested in passed] == [10_000, 10_000]
    (third,) = rig.take(clean(2)[1000:], claimed_bits=0)
    assert third.assessed_bits == 4001


def test_no_claim_is_no_credit(rig: Rig) -> None:
    assert [tested.assessed_bits for tested in rig.take(clean(0) + clean(1), claimed_bits=0)] == [0, 0]


@settings(derandomize=True, max_examples=scaled(60), deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 8)), max_size=12))
def test_however_it_arrives_blocks_are_whole_and_no_bit_is_made(pieces: list[tuple[int, int]]) -> None:
    stream = b"".join(clean(number) for number in range(24))
    rig, at, claimed, passed = Rig(), 0, 0, []
    for size, bits_per_byte in pieces:
        piece = stream[at : at + size]
        at += len(piece)
        claimed += bits_per_byte * len(piece)
        passed += rig.take(piece, bits_per_byte * len(piece))
    whole = at // BLOCK_BYTES * BLOCK_BYTES
    assert b"".join(tested.data for tested in passed) == stream[:whole]
    assert sum(tested.assessed_bits for tested in passed) <= claimed
    assert all(0 <= tested.assessed_bits <= 8 * BLOCK_BYTES for tested in passed)
    assert rig.life.bytes_read == at
