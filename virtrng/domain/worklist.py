# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which guests are to be looked at, each by one worker at a time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition


@dataclass(frozen=True, slots=True)
class Job:
    """A guest, and since when an event has been waiting for it (`now` of the list, in s), if one has.

    `live` is whether it may be changed as it runs: that may wait for its QEMU, for as long as this hangs.
    """

    uuid: str
    since_s: float | None
    live: bool = True


class Worklist:
    """What is added for a guest that waits already is one job with it; what is added meanwhile comes after.

    Guests of which an event has told come before those that are only looked at once more. Any thread may
    call anything.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, live: int = 1) -> None:
        """Begin empty; `now` counts seconds. So many jobs at a time are `live`; further ones are not."""
        self._now = now
        self._live = live
        self._left: dict[str, float | None] = {}  # for a job that is live, and since when
        self._told: dict[str, float] = {}  # and since when
        self._routine: dict[str, float | None] = {}
        self._later: dict[str, float] = {}  # and when it is due
        self._busy: dict[str, Job] = {}
        self._closed = False
        self._changed = Condition()

    def tell(self, uuid: str) -> None:
        """Add a guest of which an event has told."""
        with self._changed:
            self._routine.pop(uuid, None)
            self._later.pop(uuid, None)
            self._told.setdefault(uuid, self._now())
            self._changed.notify()

    def add(self, uuid: str, after_s: float = 0.0) -> None:
        """Add a guest that is to be looked at in so many seconds, unless it comes sooner anyway."""
        with self._changed:
            if uuid in self._told or uuid in self._routine or uuid in self._left:
                return
            if after_s > 0:
                self._later[uuid] = min(self._later.get(uuid, float("inf")), self._now() + after_s)
            else:
                self._later.pop(uuid, None)
                self._routine[uuid] = None
            self._changed.notify_all()  # each that waits has to know when the next one is due

    def leave(self, job: Job) -> None:
        """Leave what a job that is not `live` has found to one that is. To be called before `done`."""
        with self._changed:
            self._left.setdefault(job.uuid, job.since_s)

    def take(self) -> Job | None:
        """Wait for a job, which no other worker is given until `done`; None when it was closed."""
        with self._changed:
            while not self._closed:
                if job := self._next():
                    self._busy[job.uuid] = job
                    return job
                due_s = min(self._later.values(), default=None)
                self._changed.wait(None if due_s is None else max(0.0, due_s - self._now()))
            return None

    def _next(self) -> Job | None:
        now_s = self._now()
        for uuid in [uuid for uuid, due_s in self._later.items() if due_s <= now_s]:
            del self._later[uuid]
            self._routine[uuid] = None
        live = sum(job.live for job in self._busy.values()) < self._live
        for waiting in (self._left if live else {}, self._told, self._routine):
            for uuid, since_s in waiting.items():
                if uuid not in self._busy:
                    del waiting[uuid]
                    return Job(uuid, since_s, live)
        return None

    def done(self, uuid: str) -> None:
        """Say that the guest of a job has been looked at."""
        with self._changed:
            self._busy.pop(uuid, None)
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget all that waits."""
        with self._changed:
            for waiting in (self._left, self._told, self._routine, self._later):
                waiting.clear()

    @property
    def idle(self) -> bool:
        """Whether nothing is due and nothing under way."""
        with self._changed:
            return not (self._left or self._told or self._routine or self._busy)

    def close(self) -> None:
        """Give out no more jobs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
