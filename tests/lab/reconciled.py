# SPDX-License-Identifier: LGPL-2.1-or-later
"""Enabling and disabling within the test's own process, over a connection of its own."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.lab.guest import LabGuest
from tests.lab.host import LabHost, wait_for
from virtrng.config import DomainSettings
from virtrng.domain import reconcile
from virtrng.domain.halves import BOTH, Scope
from virtrng.domain.hypervisor import Hypervisor
from virtrng.domain.policy import Request
from virtrng.domain.reconcile import Outcome

SETTINGS = DomainSettings()
NOTHING_ASKED = Request()
REPLACE = Request(replace=True)


def enable(guest: LabGuest, request: Request = NOTHING_ASKED, scope: Scope = BOTH) -> Outcome:
    """Enable a guest on the host where it is."""
    with Hypervisor(guest.host.uri) as hypervisor:
        return reconcile.enable(hypervisor.guest(guest.name), SETTINGS, request, scope)


def disable(guest: LabGuest, scope: Scope = BOTH, *, forget: bool = False) -> Outcome:
    """Disable a guest on the host where it is; the waits between two requests are skipped."""
    with Hypervisor(guest.host.uri) as hypervisor:
        found = hypervisor.guest(guest.name)
        return reconcile.disable(found, scope, forget=forget, sleep=lambda _: None)


@contextmanager
def migrating(guest: LabGuest, to: LabHost) -> Iterator[None]:
    """Hold a guest in a live migration that does not get on, and have it end in vain."""
    where = ("--migrateuri", "tcp://127.0.0.1", "--listen-address", "127.0.0.1")
    line = ["virsh", "-q", "-c", guest.host.uri, "migrate", "--live", *where, guest.name, to.uri]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as virsh:
        try:
            wait_for(lambda: "Unbounded" in job(guest), "the migration to begin", timeout_s=30)
            yield
        finally:
            guest.host.virsh("domjobabort", guest.name)
            virsh.communicate()
    wait_for(lambda: "None" in job(guest), "the migration to end", timeout_s=30)


def job(guest: LabGuest) -> str:
    """Return what virsh tells of the guest's job."""
    return guest.host.virsh("domjobinfo", guest.name)
