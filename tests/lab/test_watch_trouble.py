# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng watch` when libvirtd or a QEMU hangs, dies or is replaced: no guest waits for another."""

import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.lab.guest import LabGuest
from tests.lab.host import LabHost
from tests.lab.product import ALIAS, FOREIGN, definition, live, rngs
from tests.lab.trouble import (
    PatchedWatching,
    cpu_s,
    define_firmware,
    descriptors,
    hanging,
    held,
    signal_daemon,
    signal_qemus,
)
from tests.lab.watching import EVERYBODY, PATIENCE_S, Watching, has_ours, wait_defined, wait_live
from tests.scale import scaled
from virtrng.config import DomainSettings
from virtrng.domain.hypervisor import Guest, Hypervisor
from virtrng.domain.steward import ASKS, Steward
from virtrng.domain.watch import LIVE, RECONNECT_S, WORKERS
from virtrng.watch_status import WatchStatus

LONG = scaled(1) > 1
LOST, FOUND = "; waiting for it\n", "watching the guests of "
# An outage below lasts for 4 s, and 20 s in test-long.
SPINNING_S = 1.0
ATTEMPTS = 3
# A connection has two; there are three streams, the lock and the event loop's.
DESCRIPTORS = 2 * (WORKERS + 1) + 5
# The product gives a libvirtd up after 20 s; in test-long here, too.
KEEPALIVE = "" if LONG else "from virtrng.domain import hypervisor as h; h._KEEPALIVE_S = 1"
# It looks for guests that take more than 10 s as often as it serves systemd's watchdog.
SLOW = """\
import os
from virtrng.domain import ledger
os.environ["WATCHDOG_USEC"], ledger.SLOW_S = "900000", 1.0
"""
# At its end it waits for 5 s for what is under way.
IMPATIENT = "from virtrng.domain import watch; watch.STOP_S = 0.5"


@pytest.fixture(scope="module")
def host(lab: None) -> Iterator[LabHost]:
    """Yield a host of its own: its libvirtd has to bear a lot."""
    with LabHost("omega") as host:
        yield host


@pytest.fixture
def many(host: LabHost) -> Iterator[list[LabGuest]]:
    """Yield more guests than are changed at a time as they run, none defined yet; gone after the test."""
    guests = [LabGuest(host, f"g{number}") for number in range(LIVE + 2)]
    yield guests
    running = host.virsh("list", "--name").split()
    signal_qemus([guest for guest in guests if guest.name in running], signal.SIGKILL)  # which saves time
    for guest in guests:
        guest.remove()


def define(guest: LabGuest, devices: str = "") -> None:
    """Define a guest that stays in its firmware."""
    define_firmware(guest.host, guest.name, extra_devices=devices)


def start(guests: Sequence[LabGuest], devices: str = "") -> None:
    """Define guests and start them: without the device, while the watcher is held."""
    for guest in guests:
        define(guest, devices)
        guest.host.virsh("start", guest.name)


def names(guests: Sequence[LabGuest]) -> set[str]:
    return {guest.name for guest in guests}


def noted(status: WatchStatus) -> set[str]:
    """Return the guests that it says it waits for."""
    return {one.name for one in status.noted if one.word == "waiting"}


# --- libvirtd


@contextmanager
def stopped(host: LabHost) -> Iterator[None]:
    """Stop libvirtd as systemd does."""
    host.stop_daemon()
    try:
        yield
    finally:
        host.start_daemon()


@contextmanager
def killed(host: LabHost) -> Iterator[None]:
    """Kill it; its socket stays behind."""
    signal_daemon(host, signal.SIGKILL)
    try:
        yield
    finally:
        host.start_daemon()


@contextmanager
def hung(host: LabHost) -> Iterator[None]:
    """Have it do nothing, for longer than the watcher waits."""
    signal_daemon(host, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_daemon(host, signal.SIGCONT)


@contextmanager
def replaced(host: LabHost) -> Iterator[None]:
    """Have something else answer at its socket, and hang up each time, until it was tried a few times."""
    place = host.outside("/run/libvirt/libvirt-sock")
    host.stop_daemon()
    try:
        with closing(socket.socket(socket.AF_UNIX)) as other:
            other.bind(str(place))
            other.listen()
            other.settimeout(PATIENCE_S)
            tried_s = []
            for _ in range(ATTEMPTS):
                other.accept()[0].close()
                tried_s.append(time.monotonic())
            assert tried_s[-1] - tried_s[0] > 0.9 * sum(RECONNECT_S[: ATTEMPTS - 1])
            yield
    finally:
        place.unlink()
        host.start_daemon()


def test_libvirtd_goes_and_comes_back(host: LabHost, tmp_path: Path, many: list[LabGuest]) -> None:
    others = [define_firmware(host, f"other{number}") for number in range(WORKERS)]
    with PatchedWatching(host, tmp_path, KEEPALIVE, EVERYBODY) as watching:
        for number, outage in enumerate((stopped, killed, hung, replaced), start=1):
            used_s = cpu_s(watching)
            with outage(host):
                watching.wait_until(lambda status: status.waiting is not None)
            watching.wait_until(lambda status: status.waiting is None)
            assert cpu_s(watching) - used_s < SPINNING_S
            assert [watching.log().count(text) for text in (LOST, FOUND)] == [number, number + 1]
            define(many[number])
            wait_defined(many[number])
            watching.wait_until(lambda status: status.guests == {"managed": len(others) + number})  # noqa: B023
            assert descriptors(watching) <= DESCRIPTORS
    for guest in others:
        guest.remove()
    assert "Traceback" not in watching.log()


# --- QEMU


def test_qemus_that_hang_keep_no_other_guest_waiting(
    host: LabHost, tmp_path: Path, many: list[LabGuest]
) -> None:
    hang, other, new = many[: LIVE - 1], *many[LIVE - 1 : LIVE + 1]
    with ExitStack() as stack:
        watching = stack.enter_context(PatchedWatching(host, tmp_path, SLOW))
        with held(watching):
            start([*hang, other])
            stalled = stack.enter_context(ExitStack())
            stalled.enter_context(hanging(hang))
        wait_live(other)
        define(new)
        for guest in (*hang, new):
            wait_defined(guest)
        assert not any(has_ours(live(guest)) for guest in hang)
        watching.wait_until(lambda status: noted(status) == names(hang))
        stalled.close()
        for guest in hang:
            wait_live(guest)
        watching.wait_until(lambda status: status.guests == {"managed": LIVE + 1})
    for guest in hang:
        assert (
            watching.log().count(f"{guest.name} is busy: what is being done to it has taken more than") == 1
        )


def test_as_many_as_are_changed_at_once_keep_no_definition_waiting(
    host: LabHost, tmp_path: Path, many: list[LabGuest]
) -> None:
    """Others that run do wait: it cannot be seen beforehand whether a QEMU hangs."""
    hang, other, new = many[:LIVE], *many[LIVE:]
    with ExitStack() as stack:
        watching = stack.enter_context(Watching(host, tmp_path))
        with held(watching):
            start([*hang, other])
            stack.enter_context(hanging(hang))
        define(new)
        for guest in many:
            wait_defined(guest)
        assert not any(has_ours(live(guest)) for guest in (*hang, other))
        signal_qemus(hang[:1], signal.SIGCONT)
        for guest in (hang[0], other):
            wait_live(guest)
        # It ends although its calls do not. The next one makes none to those guests, and has all hands.
        assert watching.stop() == 0
        new.remove()
        start([new])
        watching.start()
        wait_live(new)
        still = hang[1:]
        status = watching.wait_until(lambda status: noted(status) == names(still))
        assert {one.why for one in status.noted} == {
            f"{guest.name} is busy: its QEMU does not answer" for guest in still
        }
        signal_qemus(still, signal.SIGCONT)
        for guest in still:
            wait_live(guest)
        watching.look_at_all()
        watching.wait_until(lambda status: status.guests == {"managed": len(many)})
    assert [[one.alias for one in rngs(live(guest))] for guest in many] == [[ALIAS]] * len(many)


def test_guests_that_do_not_let_go_keep_no_other_guest_waiting(
    host: LabHost, tmp_path: Path, many: list[LabGuest]
) -> None:
    keep, other = many[: LIVE - 1], many[LIVE - 1]
    with PatchedWatching(host, tmp_path, IMPATIENT, '[domains]\nforeign = "replace"') as watching:
        with held(watching):
            start(keep, FOREIGN)
            start([other])
        wait_live(other)
        for guest in keep:
            wait_defined(guest)
        assert [[one.source for one in rngs(live(guest))] for guest in keep] == [["/dev/urandom"]] * len(keep)
        assert "let go of its device: from its next start" not in watching.log()
        assert watching.stop() == 0
    assert [len(rngs(definition(guest))) for guest in keep] == [1] * len(keep)


def test_a_guest_that_has_not_let_go_is_not_asked_again(
    host: LabHost, many: list[LabGuest], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    # Whether a guest obeys or not, libvirt reports success.
    monkeypatch.setattr(Guest, "detach_foreign", lambda *_, live: asked.append(live) if live else None)
    steward = Steward(DomainSettings(foreign="replace"), sleep=None)
    guest = many[0]
    start([guest], FOREIGN)
    host.virsh("detach-device", guest.name, "/dev/stdin", "--config", stdin=FOREIGN)
    with Hypervisor(host.uri) as hypervisor:
        found = hypervisor.guest(guest.name)
        for number in range(1, ASKS + 1):
            outcome = steward.look_after(found).outcome
            assert (outcome.config, outcome.live) == ("attached" if number == 1 else "already", "failed")
            assert str(outcome.error) == f"{guest.name} is busy: it has not let go of its device yet"
        for live_too in (True, False):
            looked = steward.look_after(found, live=live_too)
            assert (looked.outcome.changed, looked.outcome.live, looked.rest) == (False, "next-start", False)
        assert asked == [True] * ASKS
        host.virsh("destroy", guest.name)
        host.virsh("start", guest.name)
        assert steward.look_after(hypervisor.guest(guest.name)).outcome.live == "already"
