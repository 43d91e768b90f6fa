# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng watch` and many guests at once, libvirtd restarting, itself killed: each has one device."""

import json
import random
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import libvirt
import pytest

from tests.lab.guest import LabGuest
from tests.lab.host import LabHost, wait_for
from tests.lab.images import LabError
from tests.lab.product import ALIAS, live, rngs
from tests.lab.trouble import PatchedWatching, define_firmware, firmware_xml, held
from tests.lab.watching import EVERYBODY, PATIENCE_S, Watching, has_ours, wait_live
from tests.scale import scaled
from virtrng.domain.hypervisor import Hypervisor

LONG = scaled(1) > 1
DEFINED = 500 if LONG else 100
AT_ONCE = 1000
STARTED = 50 if LONG else 10
KILLED = 50 if LONG else 10
HANDS = 4

# Kills itself before or after the call numbered so that changes a guest, whichever thread makes it.
DYING = """\
import os, signal, threading
from virtrng.domain.hypervisor import Guest
lock, left = threading.Lock(), [{calls}]
def dying(change):
    def call(*arguments, **options):
        with lock:
            left[0] -= 1
            mine = left[0] == 0
        if mine and not {after}:
            os.kill(os.getpid(), signal.SIGKILL)
        change(*arguments, **options)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
    return call
for name in ("record", "attach", "detach"):
    setattr(Guest, name, dying(getattr(Guest, name)))
"""


@pytest.fixture
def host(lab: None) -> Iterator[LabHost]:
    """Yield a host of its own, whose guests go with it."""
    with LabHost("omega") as host:
        yield host


def ours(host: LabHost) -> dict[str, list[tuple[str, tuple[int, int] | None]]]:
    """Return alias and rate of each device in the definitions, by name."""
    with Hypervisor(host.uri) as hypervisor:
        found = hypervisor.guests()
        return {
            guest.name: [(one.alias, one.rate) for one in rngs(guest.definition().decode())]
            for guest in found
        }


def wait_until_all_have_one(host: LabHost, watching: Watching, number: int, rate_bytes: int = 4096) -> None:
    """Wait until the watcher says that it manages so many, and look whether that is so."""

    def each_has() -> bool:
        now = ours(host)
        assert all(len(devices) <= 1 for devices in now.values()), now
        return len(now) == number and all(one == [(ALIAS, (rate_bytes, 1000))] for one in now.values())

    watching.wait_until(lambda status: status.guests == {"managed": number} and not status.waiting)
    wait_for(each_has, "every guest to have its device", timeout_s=PATIENCE_S)


def test_defined_in_a_loop_while_libvirtd_restarts(host: LabHost, tmp_path: Path) -> None:
    def define(number: int) -> None:
        domain = firmware_xml(f"g{number}", uuid=str(uuid.UUID(int=number)))

        def defined() -> bool:
            with suppress(LabError):  # libvirtd is away
                host.virsh("define", "/dev/stdin", stdin=domain)
                return True
            return False

        wait_for(defined, f"g{number} to be defined", timeout_s=PATIENCE_S)

    with Watching(host, tmp_path) as watching, ThreadPoolExecutor(1) as other:
        for number in range(DEFINED):
            define(number)
            if number in (DEFINED // 3, 2 * DEFINED // 3):
                restarted = other.submit(host.restart_daemon)
        restarted.result()
        wait_until_all_have_one(host, watching, DEFINED)


def test_a_thousand_defined_at_once_are_all_done(host: LabHost, tmp_path: Path) -> None:
    def define(numbers: range) -> None:
        connection = libvirt.open(host.uri)
        for number in numbers:
            connection.defineXML(firmware_xml(f"g{number}"))
        connection.close()

    with Watching(host, tmp_path) as watching, ThreadPoolExecutor(HANDS) as hands:
        for _ in hands.map(define, [range(hand, AT_ONCE, HANDS) for hand in range(HANDS)]):
            pass
        wait_until_all_have_one(host, watching, AT_ONCE)
        status = watching.status()
        assert status is not None
        assert (status.changes, status.failures) == (AT_ONCE, 0)


def test_many_that_were_started_without_it_get_it_as_they_run(host: LabHost, tmp_path: Path) -> None:
    def start(guest: LabGuest) -> None:
        host.virsh("start", guest.name)

    with Watching(host, tmp_path) as watching, ThreadPoolExecutor(HANDS) as hands:
        with held(watching):
            guests = [define_firmware(host, f"g{number}") for number in range(STARTED)]
            for _ in hands.map(start, guests):
                pass
            assert not any(has_ours(live(guest)) for guest in guests)
        for guest in guests:
            wait_live(guest)
        wait_until_all_have_one(host, watching, STARTED)
        assert [has_ours(live(guest)) for guest in guests] == [True] * STARTED


def test_killed_in_the_middle_of_changes(host: LabHost, tmp_path: Path) -> None:
    draw, numbers = random.Random(20261125), count(6)
    guests = [define_firmware(host, f"g{number}", machine=("q35", "pc")[number % 2]) for number in range(6)]
    watching, dying = Watching(host, tmp_path), PatchedWatching(host, tmp_path, "")
    with watching:  # remembers those
        (memory,) = watching.state_dir.iterdir()
        remembered = memory.read_bytes()
    for moment in range(KILLED):
        rate_bytes = 1000 + moment
        watching.configure(f"{EVERYBODY}\nrate = {{ bytes = {rate_bytes}, period_ms = 1000 }}")
        for guest in draw.sample(guests, 2):  # its device and its wish go, too
            domain = firmware_xml(guest.name, uuid=host.virsh("domuuid", guest.name))
            host.virsh("define", "/dev/stdin", stdin=domain)
        dying.code = DYING.format(calls=draw.randrange(1, 13), after=draw.random() < 0.5)
        dying.start(listening=False)
        guests.append(define_firmware(host, f"g{next(numbers)}"))
        assert dying.wait() == -9, dying.log()
        assert all(len(devices) <= 1 for devices in ours(host).values())
        assert memory.read_bytes() == remembered
        if draw.random() < 0.5:  # the next one may be killed in what this one has left
            with_it = len(guests)
            watching.start()
            wait_until_all_have_one(host, watching, with_it, rate_bytes)
            watching.kill()
    watching.configure(EVERYBODY)
    with watching:
        wait_until_all_have_one(host, watching, len(guests))
    assert len(json.loads(memory.read_bytes())["guests"]) == 6
    assert "Traceback" not in watching.log()
