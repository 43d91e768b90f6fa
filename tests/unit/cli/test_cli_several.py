# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several at a time: their order, what ends it, and that nothing that was begun is left half done."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice

import pytest

from virtrng.cli import output
from virtrng.cli.several import AT_ONCE, Several
from virtrng.errors import HypervisorFault, NoHypervisor, VirtrngError

MANY = range(3 * AT_ONCE)
PATIENCE_S = 30
GONE = NoHypervisor("test:///", "it has gone")


def all_of(
    several: Several[int, int], move_on: Callable[[], None] = lambda: None
) -> list[int | VirtrngError]:
    return list(several.each(MANY, move_on))


def wait(event: threading.Event) -> None:
    assert event.wait(PATIENCE_S)


def interrupt() -> None:
    """Do what Ctrl-C does: the kernel gives a process's signal to its main thread."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what is set when the user has been told that it ends."""
    told = threading.Event()
    monkeypatch.setattr(output, "note", lambda text: told.set())
    return told


def test_a_slow_one_holds_up_nobody_and_they_are_told_in_their_order() -> None:
    others, done = threading.Event(), []

    def act(number: int) -> int:
        if number == 0:
            wait(others)
        return number * number

    def move_on() -> None:
        done.append(1)
        if len(done) == len(MANY) - 1:
            others.set()

    assert all_of(Several(act, NoHypervisor), move_on) == [number * number for number in MANY]
    assert len(done) == len(MANY)


def test_so_many_at_a_time_and_no_more() -> None:
    together = threading.Barrier(AT_ONCE, timeout=PATIENCE_S)
    under_way: set[int] = set()
    most = []

    def act(number: int) -> int:
        under_way.add(number)
        most.append(len(under_way))
        together.wait()
        under_way.discard(number)
        return number

    assert all_of(Several(act, NoHypervisor)) == [*MANY]
    assert max(most) == AT_ONCE


def test_a_single_one_needs_no_thread() -> None:
    several = Several[str, threading.Thread](lambda _: threading.current_thread(), NoHypervisor)
    assert list(several.each(["only"], lambda: None)) == [threading.main_thread()]
    fault = HypervisorFault("try", "no")
    assert list(Several(raising({0: fault}), NoHypervisor).each([0], lambda: None)) == [fault]
    assert list(several.each([], lambda: None)) == []


def raising(errors: dict[int, Exception]) -> Callable[[int], int]:
    def act(number: int) -> int:
        if number in errors:
            raise errors[number]
        return number

    return act


def test_one_that_fails_keeps_nobody_from_theirs() -> None:
    faults: dict[int, Exception] = {n: HypervisorFault("try", str(n)) for n in (0, 5)}
    assert all_of(Several(raising(faults), NoHypervisor)) == [faults.get(number, number) for number in MANY]


def test_after_a_fatal_one_none_is_begun_and_those_under_way_are_finished() -> None:
    begun: list[int] = []
    fatal_told, together = threading.Event(), threading.Barrier(AT_ONCE, timeout=PATIENCE_S)

    def act(number: int) -> int:
        begun.append(number)
        together.wait()
        if number == 1:
            raise GONE
        wait(fatal_told)
        return number

    assert all_of(Several(act, NoHypervisor), fatal_told.set) == [0, GONE, *range(2, AT_ONCE)]
    assert sorted(begun) == [*range(AT_ONCE)]


def test_a_bug_is_raised_in_its_turn() -> None:
    several = Several(raising({1: ZeroDivisionError()}), NoHypervisor)
    results = several.each(MANY, lambda: None)
    assert next(results) == 0
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_left_early_it_finishes_what_is_under_way() -> None:
    begun: list[int] = []
    ended: list[int] = []
    left = threading.Event()

    def act(number: int) -> int:
        begun.append(number)
        if number:
            wait(left)
        ended.append(number)
        return number

    with closing(Several(act, NoHypervisor).each(MANY, lambda: None)) as results:
        assert [*islice(results, 1)] == [0]
        # The threads go on only while it is being closed, or before; either way none is cut off.
        left.set()
    assert sorted(begun) == sorted(ended) == [*range(len(begun))]


def test_ctrl_c_begins_no_more_and_finishes_those_under_way(noted: threading.Event) -> None:
    together = threading.Barrier(AT_ONCE, timeout=PATIENCE_S)

    def act(number: int) -> int:
        if together.wait() == 0:
            interrupt()
        wait(noted)
        return number

    several = Several(act, NoHypervisor)
    before = signal.getsignal(signal.SIGINT)
    assert all_of(several) == [*range(AT_ONCE)]
    assert several.interrupted
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_waits_for_nothing(noted: threading.Event) -> None:
    together, release = threading.Barrier(AT_ONCE, timeout=PATIENCE_S), threading.Event()
    threads = []

    def act(number: int) -> int:
        threads.append(threading.current_thread())
        first = together.wait() == 0
        if first:
            interrupt()
        wait(noted)
        if first:
            interrupt()
        wait(release)
        return number

    with pytest.raises(KeyboardInterrupt):
        all_of(Several(act, NoHypervisor))
    assert len(threads) == AT_ONCE
    assert all(thread.is_alive() and thread.daemon for thread in threads)
    release.set()
    for thread in threads:
        thread.join(PATIENCE_S)


def test_ctrl_c_that_is_ignored_stays_so() -> None:
    def act(number: int) -> int:
        interrupt()
        return number

    several = Several(act, NoHypervisor)
    with ignored():
        assert all_of(several) == [*MANY]
    assert not several.interrupted


@contextmanager
def ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)
