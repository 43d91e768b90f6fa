# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the watcher has found: said once, counted, and written down."""

import logging
import os
import time
from collections.abc import Callable

import pytest

from virtrng.domain.ledger import SLOW_S, Ledger
from virtrng.domain.reconcile import Outcome
from virtrng.domain.steward import Looked
from virtrng.errors import DomainBusy, HypervisorDenied, HypervisorFault, NoHypervisor, Refused
from virtrng.watch_status import LATENCY_BOUNDS_S, STANDINGS, Noted

URI = "qemu:///system"
ONE, TWO = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0", "4dea22b3-1d52-d8f3-2516-782e98ab3fa1"


class Told:
    """The lines that were logged, by level, since the last look."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        self._caplog = caplog

    def __call__(self) -> list[tuple[str, str]]:
        lines = [(record.levelname, record.getMessage()) for record in self._caplog.records]
        self._caplog.clear()
        return lines


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    return Told(caplog)


@pytest.fixture
def changes() -> list[None]:
    return []


@pytest.fixture
def ledger(changes: list[None]) -> Ledger:
    return Ledger(URI, lambda: changes.append(None))


def looked(
    config: str,
    live: str = "not-running",
    *,
    why: str = "so",
    uuid: str = ONE,
    bare: bool = False,
    **rest: object,
) -> Looked:
    changed = rest.pop("changed", False) is True
    outcome = Outcome("web", uuid, changed=changed, config=config, live=live, why=why, **rest)  # type: ignore[arg-type]
    return Looked(outcome, bare=bare)


@pytest.mark.parametrize(
    ("config", "live", "standing"),
    [
        ("already", "not-running", "managed"), ("attached", "next-start", "managed"),
        ("transient", "attached", "managed"), ("foreign", "foreign", "foreign"),
        ("foreign", "not-running", "foreign"), ("transient", "foreign", "foreign"),
        ("not-wanted", "not-wanted", "unwanted"),
        ("managed", "managed", "elsewhere"), ("before", "before", "before"), ("off", "off", "off"),
        ("contested", "contested", "contested"),
    ],
)  # fmt: skip
def test_how_a_guest_stands(ledger: Ledger, config: str, live: str, standing: str) -> None:
    ledger.looked(looked(config, live), None)
    assert standing in STANDINGS
    assert ledger.status().guests == {standing: 1}
    noted = ledger.status().noted
    assert noted == ((Noted("web", ONE, "contested", "so"),) if standing == "contested" else ())


@pytest.mark.parametrize(
    ("error", "standing", "level"),
    [
        (HypervisorFault("attach the device to web", "no"), "failed", "WARNING"),
        (Refused("web", "no bus", "another machine"), "refused", "WARNING"),
        (DomainBusy("web", "it migrates"), "waiting", "INFO"),
    ],
)
def test_what_keeps_a_guest_from_it_is_said_once(
    ledger: Ledger, told: Told, error: HypervisorFault | Refused | DomainBusy, standing: str, level: str
) -> None:
    for _ in range(3):
        ledger.failed("web", ONE, error)
    assert ledger.status().noted == (Noted("web", ONE, standing, str(error)),)
    assert ledger.status().failures == (3 if standing == "failed" else 0)
    line = str(error) if str(error).startswith("web") else f"web: {error}"
    assert told() == [(level, line)]
    ledger.looked(looked("already"), None)
    ledger.looked(looked("already"), None)
    assert told() == [("INFO", "web: it is as it should be again")]
    ledger.failed("web", ONE, error)
    assert told() == [(level, line)], "again is news"
    ledger.failed("web", ONE, Refused("web", "another reason", ""))
    assert told() == [("WARNING", "web: another reason")]


def test_a_change_is_said_each_time_with_what_its_owner_should_know(ledger: Ledger, told: Told) -> None:
    for _ in range(2):
        ledger.looked(
            looked("attached", why="definition: given", changed=True, notes=("first", "second")), 0.1
        )
    assert told() == [("INFO", "web: definition: given\n  first\n  second")] * 2
    assert ledger.status().changes == 2


def test_a_half_that_failed(ledger: Ledger, told: Told) -> None:
    fault = HypervisorFault("attach the device to web", "no")
    for _ in range(2):
        ledger.looked(looked("attached", "failed", error=fault), 0.1)
    status = ledger.status()
    assert (status.guests, status.failures) == ({"failed": 1}, 2)
    assert told() == [("WARNING", f"web: {fault}")]


def test_who_has_no_device_at_all(ledger: Ledger) -> None:
    ledger.looked(looked("before", bare=True), None)
    ledger.looked(looked("foreign", uuid=TWO), None)
    assert ledger.status().without_device == 1
    ledger.failed("web", ONE, DomainBusy("web", "it starts"))
    ledger.failed("db", TWO, DomainBusy("db", "it starts"))
    assert ledger.status().without_device == 1, "what is known of it still holds"
    ledger.failed("new", "new", DomainBusy("new", "it starts"))
    assert ledger.status().without_device == 2
    assert [one.name for one in ledger.status().noted] == ["db", "new", "web"]


def test_guests_that_are_gone_are_forgotten(ledger: Ledger) -> None:
    ledger.looked(looked("already"), None)
    ledger.looked(looked("already", uuid=TWO), None)
    assert ledger.known() == {ONE, TWO}
    ledger.forget(ONE)
    ledger.forget("never seen")
    assert (ledger.known(), ledger.status().guests) == ({TWO}, {"managed": 1})


def test_how_long_it_took_after_the_event(ledger: Ledger) -> None:
    took_s = (0.0, LATENCY_BOUNDS_S[0], 0.011, LATENCY_BOUNDS_S[-1], 31.0)
    for one in took_s:
        ledger.looked(looked("already"), one)
    ledger.looked(looked("already"), None)
    latency = ledger.status().latency
    assert latency.counts == (2, 1, 0, 0, 0, 0, 0, 0, 1, 1)
    assert latency.sum_s == pytest.approx(sum(took_s))


def test_a_libvirt_that_does_not_answer_is_said_once(ledger: Ledger, told: Told) -> None:
    assert ledger.status().waiting == "it has just started"
    gone, denied = NoHypervisor(URI, "connection refused"), HypervisorDenied(URI, "no")
    for why in (gone, NoHypervisor(URI, "no such file"), denied, None, None, gone):
        ledger.waits(why)
        assert ledger.status().waiting == (str(why) if why else None)
        assert ledger.summary().startswith(f"waiting: {why}" if why else "no guests")
    assert told() == [
        ("WARNING", f"{gone}; waiting for it\n  {gone.remedy}"),
        ("WARNING", f"{denied}; waiting for it\n  {denied.remedy}"),
        ("INFO", f"watching the guests of {URI}"),
        ("WARNING", f"{gone}; waiting for it\n  {gone.remedy}"),
    ]


def test_the_summary(ledger: Ledger) -> None:
    ledger.waits(None)
    ledger.looked(looked("already"), None)
    assert ledger.summary() == "1 guest: 1 managed; 0 without a virtio-rng"
    ledger.looked(looked("before", uuid=TWO, bare=True), None)
    assert ledger.summary() == "2 guests: 1 before, 1 managed; 1 without a virtio-rng"
    status = ledger.status()
    assert (status.uri, status.pid, status.last_pass_boottime_s) == (URI, os.getpid(), None)
    ledger.looked_at_all()
    assert ledger.status().last_pass_boottime_s is not None


def test_each_change_is_told_of(ledger: Ledger, changes: list[None]) -> None:
    acts: list[Callable[[], None]] = [
        lambda: ledger.looked(looked("already"), None),
        lambda: ledger.failed("web", ONE, DomainBusy("web", "it starts")),
        lambda: ledger.forget(ONE),
        ledger.looked_at_all,
        lambda: ledger.waits(None),
    ]
    for number, act in enumerate(acts, 1):
        act()
        assert len(changes) == number


def test_a_guest_that_keeps_its_worker_waiting(
    ledger: Ledger, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    ledger.begins("web", ONE)
    now_s = 100.0 + SLOW_S
    ledger.look_for_slow()
    assert ledger.status().noted == ()
    now_s += 0.1
    ledger.look_for_slow()
    now_s += 100.0
    ledger.look_for_slow()
    (noted,) = ledger.status().noted
    assert (noted.name, noted.word) == ("web", "waiting")
    assert told() == [("INFO", "web is busy: what is being done to it has taken more than 10 s")]
    ledger.looked(looked("already"), None)
    ledger.ends(ONE)
    now_s += 100.0
    ledger.look_for_slow()
    assert ledger.status().noted == ()
    ledger.begins("web", ONE)
    ledger.ends(ONE)
    now_s += 100.0
    ledger.look_for_slow()
    assert ledger.status().noted == ()
