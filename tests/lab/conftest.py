# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's fixtures: a libvirt host for the whole run, a second one to migrate to, guests for each test."""

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Unpack

import pytest

from tests.lab.guest import DomainOptions, LabGuest
from tests.lab.host import LabHost, children, traces, why_no_lab
from tests.lab.images import GuestImage, guest_image

SHOWN_CHARACTERS = 4000
_guest_numbers = itertools.count(1)


class NewGuest(Protocol):
    """Defines a guest under a new name, on the shared host unless told otherwise; gone after the test."""

    def __call__(self, *, host: LabHost | None = None, **options: Unpack[DomainOptions]) -> LabGuest: ...


@pytest.fixture(scope="session", autouse=True)
def lab() -> Iterator[None]:
    """Refuse to begin where the lab cannot work, and fail at the end if anything of it is left.

    Whatever is to be gone by then depends on this: pytest ends session fixtures in the order of last use.
    """
    reason = why_no_lab()
    if reason and os.geteuid() != 0:
        pytest.skip(reason)
    if reason:
        pytest.fail(reason, pytrace=False)
    before = children()
    yield
    left = traces(os.getpid())
    left += [f"child {pid}: {Path('/proc', pid, 'cmdline').read_bytes()!r}" for pid in children() - before]
    assert not left, "the lab left behind: " + "; ".join(left)


@pytest.fixture(scope="session")
def image(lab: None) -> GuestImage:
    """Return the two-second guest's kernel and initramfs."""
    return guest_image()


@pytest.fixture(scope="session")
def lab_host(lab: None) -> Iterator[LabHost]:
    """Yield the host that all tests share; whoever changes it puts it back."""
    with LabHost("alpha") as host:
        yield host


@pytest.fixture(scope="session")
def second_host(lab: None) -> Iterator[LabHost]:
    """Yield the host to migrate to."""
    with LabHost("beta") as host:
        yield host


@pytest.fixture
def new_guest(lab_host: LabHost, image: GuestImage) -> Iterator[NewGuest]:
    """Yield what defines guests for this test."""
    made: list[LabGuest] = []

    def make(*, host: LabHost | None = None, **options: Unpack[DomainOptions]) -> LabGuest:
        guest = LabGuest.define(host or lab_host, f"guest{next(_guest_numbers)}", image=image, **options)
        made.append(guest)
        return guest

    yield make
    for guest in made:
        # pytest shows this with a test that failed.
        sys.stdout.write(f"console of {guest.name}:\n{guest.console_text()[-SHOWN_CHARACTERS:]}\n")
        sys.stdout.write(f"libvirtd of {guest.host.hostname}:\n{guest.host.log()[-SHOWN_CHARACTERS:]}\n")
    for guest in made:
        guest.remove()
