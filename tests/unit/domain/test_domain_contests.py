# SPDX-License-Identifier: LGPL-2.1-or-later
"""A device that somebody takes away three times within an hour is given no more."""

import pytest

from virtrng.domain.contests import REMOVALS, WITHIN_S, Contests

GUEST = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
HERE, GONE = {"definition": True}, {"definition": False}


@pytest.fixture
def contests() -> Contests:
    return Contests()


def remove(contests: Contests, *at_s: float) -> list[bool]:
    """Have it given and found gone at each of these times; return what was said of each."""
    said = []
    for now_s in at_s:
        contests.given(GUEST, ["definition"])
        said.append(contests.observe(GUEST, GONE, now_s))
    return said


def test_the_third_time_within_an_hour(contests: Contests) -> None:
    assert (REMOVALS, WITHIN_S) == (3, 3600.0)
    assert remove(contests, 0.0, 1800.0, 3599.9) == [False, False, True]


def test_over_more_than_an_hour_it_is_not(contests: Contests) -> None:
    assert remove(contests, 0.0, 1800.0, 3600.0, 5399.0) == [False, False, False, True]


def test_it_stays_so_until_the_device_is_back(contests: Contests) -> None:
    remove(contests, 0.0, 1.0, 2.0)
    assert [contests.observe(GUEST, GONE, now_s) for now_s in (3.0, 1e6)] == [True, True]
    assert not contests.observe(GUEST, HERE, 1e6 + 1)
    assert not contests.observe(GUEST, GONE, 1e6 + 2), "that is the first time again"
    assert remove(contests, 1e6 + 3, 1e6 + 4) == [False, True]


def test_what_was_never_there_was_not_removed(contests: Contests) -> None:
    assert not any(contests.observe(GUEST, GONE, float(now_s)) for now_s in range(10))


def test_one_removal_is_counted_once_however_often_it_is_looked_at(contests: Contests) -> None:
    contests.observe(GUEST, HERE, 0.0)
    assert not any(contests.observe(GUEST, GONE, float(now_s)) for now_s in range(1, 10))


def test_gone_from_both_at_once_is_once(contests: Contests) -> None:
    for now_s in (1.0, 2.0):
        contests.given(GUEST, ["definition", "run 1"])
        assert not contests.observe(GUEST, {"definition": False, "run 1": False}, now_s)


def test_a_guest_that_runs_again_without_it_has_lost_nothing(contests: Contests) -> None:
    for run in range(10):
        contests.observe(GUEST, {"definition": True, f"run {run}": False}, float(run))
        contests.given(GUEST, [f"run {run}"])
        assert not contests.observe(GUEST, HERE, float(run)), "it does not run"


def test_unplugged_again_and_again_it_is_contested_while_that_run_lasts(contests: Contests) -> None:
    unplugged = {"definition": True, "run 1": False}
    for now_s in (1.0, 2.0, 3.0):
        contests.given(GUEST, ["definition", "run 1"])
        contested = contests.observe(GUEST, unplugged, now_s)
    assert contested
    assert contests.observe(GUEST, unplugged, 4.0), "its definition has it, and that is not the question"
    assert not contests.observe(GUEST, {"definition": True, "run 2": True}, 5.0)
    assert not contests.observe(GUEST, {"definition": True, "run 2": False}, 6.0)


def test_forgotten_it_begins_anew(contests: Contests) -> None:
    remove(contests, 0.0, 1.0)
    contests.forget(GUEST)
    assert remove(contests, 2.0, 3.0) == [False, False]
    contests.forget(GUEST)
    assert not contests.observe(GUEST, GONE, 4.0)
    remove(contests, 5.0, 6.0, 7.0)
    contests.forget(GUEST)
    assert not contests.observe(GUEST, GONE, 8.0)


def test_one_guest_is_not_another(contests: Contests) -> None:
    remove(contests, 0.0, 1.0)
    contests.given("another", ["definition"])
    assert not contests.observe("another", GONE, 2.0)
    assert contests.observe("another", HERE, 3.0) is False
    assert remove(contests, 4.0) == [True]
