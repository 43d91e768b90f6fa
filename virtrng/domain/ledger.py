# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the watcher has found, guest by guest: what is said of it once, counted, and written down."""

import logging
import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from threading import RLock

from virtrng import kernel
from virtrng.domain.steward import Looked
from virtrng.errors import DomainBusy, Refused, VirtrngError
from virtrng.watch_status import LATENCY_BOUNDS_S, Latency, Noted, WatchStatus

log = logging.getLogger(__name__)

# What is done about a guest, by the word for its definition or for the guest as it runs; else it is managed.
_STANDINGS = {
    "not-wanted": "unwanted",
    "managed": "elsewhere",
    "foreign": "foreign",
    "before": "before",
    "off": "off",
    "contested": "contested",
}
_NOTED = ("contested", "refused", "failed", "waiting")

SLOW_S = 10.0
_SLOW = f"what is being done to it has taken more than {SLOW_S:g} s"


@dataclass(frozen=True, slots=True)
class _Page:
    name: str
    standing: str
    why: str
    bare: bool


class Ledger:
    """Knows of each guest how it stands. Any thread may call anything; `changed` is called after changes."""

    def __init__(self, uri: str, changed: Callable[[], None]) -> None:
        """Know nothing yet."""
        self._uri = uri
        self._changed = changed
        self._lock = RLock()
        self._begun: dict[str, tuple[str, float]] = {}  # the name of a guest, and since when
        self._pages: dict[str, _Page] = {}
        self._waiting: str | None = "it has just started"
        self._lost_by = ""
        self._changes = self._failures = 0
        self._last_pass_boottime_s: float | None = None
        self._counts = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self._sum_s = 0.0

    def begins(self, name: str, uuid: str) -> None:
        """Note that a guest is being looked at."""
        with self._lock:
            self._begun[uuid] = name, time.monotonic()

    def ends(self, uuid: str) -> None:
        """Note that a guest is being looked at no longer, whatever became of it."""
        with self._lock:
            self._begun.pop(uuid, None)

    def look_for_slow(self) -> None:
        """Note the guests that keep their worker waiting: their QEMU may hang."""
        with self._lock:  # what becomes of them is noted after this
            for uuid, (name, begun_s) in [*self._begun.items()]:
                if time.monotonic() - begun_s > SLOW_S:
                    self.failed(name, uuid, DomainBusy(name, _SLOW))

    def looked(self, looked: Looked, took_s: float | None) -> None:
        """Note what became of a guest, and how long after the event that told of it, if one did."""
        outcome = looked.outcome
        words = (outcome.config, outcome.live)
        standing = next((_STANDINGS[word] for word in words if word in _STANDINGS), "managed")
        if outcome.changed:
            log.info("%s", "\n  ".join((f"{outcome.name}: {outcome.why}", *outcome.notes)))
        # What keeps it from being managed; of one that is managed every look tells the same.
        why = "" if standing == "managed" else outcome.why
        if outcome.error:
            standing, why = _standing_after(outcome.error), str(outcome.error)
        self._turn(outcome.uuid, _Page(outcome.name, standing, why, looked.bare))
        with self._lock:
            self._changes += outcome.changed
            self._failures += standing == "failed"
            if took_s is not None:
                self._counts[bisect_left(LATENCY_BOUNDS_S, took_s)] += 1
                self._sum_s += took_s
        self._changed()

    def failed(self, name: str, uuid: str, error: VirtrngError) -> None:
        """Note that nothing was done about a guest, and why."""
        standing = _standing_after(error)
        with self._lock:
            self._failures += standing == "failed"
            known = self._pages.get(uuid)
        self._turn(uuid, _Page(name, standing, str(error), bare=known.bare if known else True))
        self._changed()

    def _turn(self, uuid: str, page: _Page) -> None:
        """Put a guest's new page in the place of the old one; say once what is new about it."""
        with self._lock:
            old, self._pages[uuid] = self._pages.get(uuid), page
            self._begun.pop(uuid, None)
        if old and (old.standing, old.why) == (page.standing, page.why):
            return
        if page.standing in _NOTED:
            # What a busy guest waits for passes by itself.
            log.log(logging.INFO if page.standing == "waiting" else logging.WARNING, "%s", _told(page))
        elif old and old.standing in _NOTED:
            log.info("%s: %s", page.name, page.why or "it is as it should be again")

    def forget(self, uuid: str) -> None:
        """A guest is gone."""
        with self._lock:
            self._pages.pop(uuid, None)
        self._changed()

    def known(self) -> set[str]:
        """Return the UUIDs of the guests that it has a page of."""
        with self._lock:
            return set(self._pages)

    def looked_at_all(self) -> None:
        """Note when every guest was listed to be looked at."""
        with self._lock:
            self._last_pass_boottime_s = kernel.boottime_s()
        self._changed()

    def waits(self, why: VirtrngError | None) -> None:
        """Libvirt does not answer; or does, where `why` is None. Said once."""
        with self._lock:
            self._waiting = str(why) if why else None
            before, self._lost_by = self._lost_by, why.code if why else "answers"
        if why and before != why.code:
            log.warning("%s; waiting for it\n  %s", why, why.remedy)
        elif not why and before != "answers":
            log.info("watching the guests of %s", self._uri)
        self._changed()

    def summary(self) -> str:
        """Say in one line how it stands."""
        status = self.status()
        if status.waiting:
            return f"waiting: {status.waiting}"
        counts = ", ".join(f"{int(count)} {standing}" for standing, count in status.guests.items())
        total = int(sum(status.guests.values()))
        if not total:
            return "no guests"
        guests = "1 guest" if total == 1 else f"{total} guests"
        return f"{guests}: {counts}; {status.without_device} without a virtio-rng"

    def status(self) -> WatchStatus:
        """Return what is written down."""
        with self._lock:
            pages = dict(self._pages)
            return WatchStatus(
                updated_at=time.time(),
                pid=os.getpid(),
                uri=self._uri,
                waiting=self._waiting,
                guests=dict(sorted(Counter(page.standing for page in pages.values()).items())),
                without_device=sum(page.bare for page in pages.values()),
                changes=self._changes,
                failures=self._failures,
                last_pass_boottime_s=self._last_pass_boottime_s,
                noted=tuple(
                    Noted(page.name, uuid, page.standing, page.why)
                    for uuid, page in sorted(pages.items(), key=lambda item: item[1].name)
                    if page.standing in _NOTED
                ),
                latency=Latency(tuple(self._counts), self._sum_s),
            )


def _standing_after(error: VirtrngError) -> str:
    if isinstance(error, DomainBusy):
        return "waiting"
    return "refused" if isinstance(error, Refused) else "failed"


def _told(page: _Page) -> str:
    return page.why if page.why.startswith(page.name) else f"{page.name}: {page.why}"
