# SPDX-License-Identifier: LGPL-2.1-or-later
"""The list of guests to be looked at: each by one worker at a time, none forgotten, none twice."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from threading import Lock, Thread

import pytest

from tests.scale import scaled
from virtrng.domain.worklist import Job, Worklist

LIMIT_S = 60.0


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def worklist(clock: Clock) -> Worklist:
    return Worklist(clock, live=8)


def taken(worklist: Worklist) -> list[str]:
    """Take all that is due, and leave it under way."""
    found = []
    while job := worklist._next():
        worklist._busy[job.uuid] = job
        found.append(job.uuid)
    return found


def test_what_an_event_tells_of_comes_first(worklist: Worklist, clock: Clock) -> None:
    worklist.add("a")
    worklist.add("b")
    worklist.tell("c")
    clock.now_s = 101.0
    worklist.tell("b")
    assert worklist.take() == Job("c", 100.0)
    assert worklist.take() == Job("b", 101.0)
    assert worklist.take() == Job("a", None)


def test_one_that_waits_already_is_one_job_since_its_first_event(worklist: Worklist, clock: Clock) -> None:
    for now_s in (100.0, 101.0, 102.0):
        clock.now_s = now_s
        worklist.tell("a")
        worklist.add("a")
        worklist.add("a", after_s=1.0)
    assert worklist.take() == Job("a", 100.0)
    worklist.done("a")
    clock.now_s = 200.0
    assert taken(worklist) == []


def test_what_is_added_while_it_is_looked_at_comes_after(worklist: Worklist) -> None:
    worklist.tell("a")
    assert worklist.take() == Job("a", 100.0)
    worklist.tell("a")
    worklist.add("b")
    assert taken(worklist) == ["b"], "nobody else is given it meanwhile"
    worklist.done("a")
    assert taken(worklist) == ["a"]


def test_what_is_for_later_is_due_then(worklist: Worklist, clock: Clock) -> None:
    worklist.add("a", after_s=10.0)
    worklist.add("a", after_s=5.0)
    worklist.add("a", after_s=20.0)
    worklist.add("b", after_s=30.0)
    assert worklist.idle, "nothing is due"
    clock.now_s = 104.9
    assert taken(worklist) == []
    clock.now_s = 105.0
    assert taken(worklist) == ["a"]
    assert not worklist.idle, "it is under way"
    worklist.done("a")
    assert worklist.idle
    clock.now_s = 130.0
    assert taken(worklist) == ["b"]


@pytest.mark.parametrize("sooner", [Worklist.tell, Worklist.add])
def test_what_comes_sooner_takes_the_place_of_what_is_for_later(
    worklist: Worklist, clock: Clock, sooner: Callable[[Worklist, str], None]
) -> None:
    worklist.add("a", after_s=10.0)
    sooner(worklist, "a")
    assert taken(worklist) == ["a"]
    worklist.done("a")
    clock.now_s = 200.0
    assert taken(worklist) == []


def test_cleared_it_forgets_all_but_what_is_under_way(worklist: Worklist, clock: Clock) -> None:
    worklist.tell("a")
    job = worklist.take()
    assert job is not None
    worklist.leave(job)
    worklist.tell("b")
    worklist.add("c")
    worklist.add("d", after_s=1.0)
    worklist.clear()
    clock.now_s = 200.0
    assert taken(worklist) == []
    assert not worklist.idle
    worklist.done("a")
    assert worklist.idle


def test_only_so_many_are_live_and_what_they_left_comes_first(clock: Clock) -> None:
    worklist = Worklist(clock, live=1)
    worklist.tell("a")
    worklist.tell("b")
    worklist.tell("c")
    assert worklist.take() == Job("a", 100.0, live=True)
    rest = worklist.take()
    assert rest == Job("b", 100.0, live=False)
    clock.now_s = 101.0
    worklist.leave(rest)
    worklist.add("b")  # it will be looked at anyway
    worklist.done("b")
    assert worklist.take() == Job("c", 100.0, live=False)
    worklist.done("c")
    assert not worklist.idle
    assert taken(worklist) == [], "no live one is to be had"
    worklist.done("a")
    assert worklist.take() == Job("b", 100.0, live=True)
    worklist.done("b")
    assert worklist.idle


@pytest.fixture
def workers() -> Iterator[list[Thread]]:
    """Yield a list of threads that are waited for; they are to end by themselves."""
    threads: list[Thread] = []
    yield threads
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def test_whoever_waits_is_given_what_comes_and_what_becomes_due(workers: list[Thread]) -> None:
    worklist, found = Worklist(live=4), []

    def work() -> None:
        while job := worklist.take():
            found.append(job.uuid)
            worklist.done(job.uuid)
            if len(found) == 3:
                worklist.close()

    workers += [Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    worklist.add("later", after_s=0.05)
    worklist.tell("told")
    worklist.add("routine")
    for worker in workers:
        worker.join(LIMIT_S)
    assert sorted(found) == ["later", "routine", "told"]
    assert worklist.take() is None


class Crowd:
    """Guests of which threads tell, and which others look at; `together` are those that two looked at."""

    def __init__(self) -> None:
        self.worklist = Worklist(live=2)
        self.guests = [f"guest{number}" for number in range(20)]
        self.events: Counter[str] = Counter()
        self.seen: dict[str, int] = {}
        self.together: list[str] = []
        self._under_way: set[str] = set()
        self._lock = Lock()

    def work(self) -> None:
        while job := self.worklist.take():
            with self._lock:
                if job.uuid in self._under_way:
                    self.together.append(job.uuid)
                self._under_way.add(job.uuid)
                self.seen[job.uuid] = self.events[job.uuid]
            if not job.live and job.uuid.endswith("7"):
                self.worklist.leave(job)
            with self._lock:
                self._under_way.discard(job.uuid)
            self.worklist.done(job.uuid)

    def tell(self, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(scaled(500)):
            uuid = chance.choice(self.guests)
            with self._lock:
                self.events[uuid] += 1
            chance.choice([self.worklist.tell, self.worklist.add])(uuid)


def test_each_is_looked_at_after_its_last_event_and_never_by_two(workers: list[Thread]) -> None:
    crowd = Crowd()
    tellers = [Thread(target=crowd.tell, args=(seed,)) for seed in range(3)]
    workers += [Thread(target=crowd.work) for _ in range(6)]
    for thread in (*workers, *tellers):
        thread.start()
    for thread in tellers:
        thread.join(LIMIT_S)
    with crowd.worklist._changed:
        assert crowd.worklist._changed.wait_for(lambda: crowd.worklist.idle, timeout=LIMIT_S)
    crowd.worklist.close()
    assert crowd.together == []
    assert crowd.seen == crowd.events
