# SPDX-License-Identifier: LGPL-2.1-or-later
"""virt-install beside `virtrng watch`: the guest has our device, and nobody has typed virtrng."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.guest import LabGuest
from tests.lab.host import LabHost, wait_for
from tests.lab.product import ALIAS, definition, live, rngs
from tests.lab.virtinst import environment, virt_install
from tests.lab.watching import PATIENCE_S, Watching, wait_defined, wait_live

ARGUMENTS = (
    "--import", "--disk", "none", "--network", "none", "--graphics", "none", "--noautoconsole",
    "--memory", "32", "--virt-type", "qemu",
    "--osinfo", "debian11",  # to which it gives a virtio-rng by itself
)  # fmt: skip
OURS = [(ALIAS, "/dev/random", (4096, 1000))]


@pytest.fixture
def guest(lab_host: LabHost) -> Iterator[LabGuest]:
    """Yield the guest that is to be installed; gone after the test."""
    guest = LabGuest(lab_host, "installed")
    yield guest
    guest.remove()


def install(guest: LabGuest, *arguments: str) -> None:
    """Run virt-install to its end."""
    line = virt_install(guest.host, "--name", guest.name, *ARGUMENTS, *arguments)
    done = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def seen(domain: str) -> list[tuple[str, str, tuple[int, int] | None]]:
    """Return alias, source and rate of each random number device in a domain's XML."""
    return [(one.alias, one.source, one.rate) for one in rngs(domain)]


def test_a_guest_without_one(lab_host: LabHost, guest: LabGuest, tmp_path: Path) -> None:
    with Watching(lab_host, tmp_path):
        install(guest, "--rng", "none")
        wait_defined(guest)
        wait_live(guest)
    assert seen(definition(guest)) == seen(live(guest)) == OURS


def test_what_it_gives_by_itself_is_brought_to_policy(
    lab_host: LabHost, guest: LabGuest, tmp_path: Path
) -> None:
    with Watching(lab_host, tmp_path, '[domains]\nforeign = "replace"'):
        install(guest)
        wait_for(lambda: seen(definition(guest)) == OURS, "its device to be replaced", timeout_s=PATIENCE_S)
        assert definition(guest).count("/dev/urandom") == 1, "what it had is kept in its metadata"
        lab_host.virsh("destroy", guest.name)  # it has nothing to boot, and so lets go of nothing
        lab_host.virsh("start", guest.name)
        assert seen(live(guest)) == OURS
