# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng status --follow`: the same, kept live, until Ctrl-C."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from threading import Event, Thread
from typing import Any

from virtrng.cli import output, signals, status_guests, status_host
from virtrng.cli.status_guests import Guests
from virtrng.cli.status_host import Host
from virtrng.config import Config
from virtrng.errors import ExitCode, NoHypervisor

# The feeder writes once a second. libvirt is asked less often, and the longer an
# answer takes the less: a thousand guests must not keep it busy.
EVERY_S = 1.0
GUESTS_EVERY_S = 5.0
GUESTS_PAUSE_FACTOR = 20.0
FIRST_ANSWER_S = 2.0

Looks = Iterator[tuple[Host, Guests]]
Document = Callable[[Host, Guests], dict[str, object]]


def run(settings: Config, uri: str | None, document: Document | None) -> int:
    """Show what changes, as lines of JSON where a `document` is to be made of it.

    A feeder or a libvirt that ends, restarts or hangs is shown, and does not end it.
    """
    with suppress(KeyboardInterrupt), signals.ending_cleanly():
        watch = _GuestWatch(uri, settings)
        try:
            looks = _looks(settings, watch)
            if document:
                _follow_json(looks, document)
            elif output.is_terminal():
                _follow_live(looks)
            else:
                _follow_lines(looks)
        finally:
            watch.close()
    return ExitCode.DONE


class _GuestWatch:
    """Asks libvirt in a thread of its own: one that hangs keeps nobody from the host's part."""

    def __init__(self, uri: str | None, settings: Config) -> None:
        self.latest = Guests((), NoHypervisor(uri or "its usual place", "it has not answered yet"))
        self._uri, self._settings = uri, settings
        self._answered = Event()
        self._ended = Event()
        self._thread = Thread(target=self._run, name="guests", daemon=True)
        self._thread.start()
        self._answered.wait(FIRST_ANSWER_S)

    def _run(self) -> None:
        pause_s = 0.0
        while not self._ended.wait(pause_s):
            began_s = time.monotonic()
            self.latest = status_guests.look(self._uri, self._settings)
            self._answered.set()
            pause_s = max(GUESTS_EVERY_S, GUESTS_PAUSE_FACTOR * (time.monotonic() - began_s))

    def close(self) -> None:
        self._ended.set()
        self._thread.join(EVERY_S)  # not for ever: libvirt may hang


def _looks(settings: Config, watch: _GuestWatch) -> Looks:
    while True:
        yield status_host.look(settings), watch.latest
        _pause()


def _pause() -> None:
    time.sleep(EVERY_S)


def _follow_json(looks: Looks, document: Document) -> None:
    known = None
    for host, guests in looks:
        found = document(host, guests)
        text = json.dumps(found)
        if (lasting := _lasting(json.loads(text))) != known:
            known = lasting
            output.line(text)


def _lasting(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out what only says that time goes by."""
    del found["problems"]  # they follow from the rest, and count seconds
    del found["feeder"]["last_seed_age_s"]
    if found["feeder"]["status"]:
        del found["feeder"]["status"]["updated_at"]
    if found["watcher"] and (watcher := found["watcher"]["status"]):
        del watcher["updated_at"], watcher["last_pass_boottime_s"]
    return found


def _follow_live(looks: Looks) -> None:
    with output.live() as show:
        for host, guests in looks:
            show(status_host.facts(host), guests.lines())


def _follow_lines(looks: Looks) -> None:
    """Print each fact when it is new, a line each, with the time."""
    known: set[str] = set()
    for host, guests in looks:
        told = [f"{fact.name:<8}{fact.told}" for fact in status_host.facts(host) if fact.told is not None]
        told += guests.news()
        for text in told:
            if text not in known:
                output.line(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}")
        known = set(told)
