# SPDX-License-Identifier: LGPL-2.1-or-later
"""When a seed is due, and when a key is tried again."""

import pytest

from virtrng.feeder.backoff import LONGEST_S, WELL_S, Backoff
from virtrng.feeder.clock import SeedClock


def test_a_seed_is_due_at_once_and_then_every_interval() -> None:
    clock = SeedClock(10.0)
    assert clock.due(0.0)
    assert clock.wait_s(0.0) == 0.0
    clock.seeded(3.0, crng_ready=True)
    assert [clock.due(now_s) for now_s in (3.0, 12.9, 13.0, 500.0)] == [False, False, True, True]
    assert [clock.wait_s(now_s) for now_s in (3.0, 12.5, 13.0, 500.0)] == [10.0, 0.5, 0.0, 0.0]


def test_seeds_that_are_given_late_do_not_drift() -> None:
    clock = SeedClock(10.0)
    for now_s in (3.0, 13.4, 23.9):
        clock.seeded(now_s, crng_ready=True)
    assert clock.wait_s(23.9) == pytest.approx(9.1)
    clock.seeded(45.0, crng_ready=True)  # those due at 33 and 43 were missed: count anew
    assert clock.wait_s(45.0) == 10.0


def test_until_the_generator_is_ready_one_is_always_due() -> None:
    clock = SeedClock(10.0)
    clock.seeded(3.0, crng_ready=False)
    assert clock.due(3.0)
    clock.seeded(4.0, crng_ready=True)
    assert not clock.due(13.9)


def test_it_can_be_made_due() -> None:
    clock = SeedClock(10.0)
    clock.seeded(3.0, crng_ready=True)
    clock.at_once()
    assert clock.due(3.0)


def test_a_suspend_is_noticed_once() -> None:
    clock = SeedClock(10.0)
    # Boot clock and waking clock: they part by 50 s, then by another 1.5 s.
    told = [(100.0, 100.0), (101.0, 101.0), (152.0, 102.0), (153.0, 103.0), (153.4, 102.9), (155.0, 103.0)]
    assert [clock.resumed(*one) for one in told] == [False, False, True, False, False, True]


def test_a_machine_that_was_suspended_before_is_not_taken_for_one_that_has_just_been() -> None:
    assert not SeedClock(10.0).resumed(5000.0, 100.0)


def test_a_key_that_keeps_failing_is_tried_less_and_less() -> None:
    backoff = Backoff()
    assert not backoff.waits(0.0)
    waited = []
    for _ in range(7):
        backoff.failed(100.0, 0.0)
        waited.append(next(s for s in range(1000) if not backoff.waits(100.0 + s)))
    assert waited == [2, 4, 8, 16, 30, 30, 30]
    assert waited[-1] == LONGEST_S


def test_one_that_was_well_is_tried_again_soon() -> None:
    backoff = Backoff()
    for lasted_s in (0.0, 0.0, 0.0, WELL_S - 0.1):
        backoff.failed(0.0, lasted_s)
    assert backoff.waits(15.9)
    backoff.failed(100.0, WELL_S)
    assert backoff.waits(101.9)
    assert not backoff.waits(102.0)
