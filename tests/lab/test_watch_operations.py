# SPDX-License-Identifier: LGPL-2.1-or-later
"""What befalls guests while `virtrng watch` looks after them: starts, migrations, saves, snapshots."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab.conftest import NewGuest
from tests.lab.guest import LabGuest, domain_xml
from tests.lab.host import LabHost
from tests.lab.images import GuestImage
from tests.lab.product import definition, live, read_hwrng, rngs, wait_for_more_reads, wait_for_rng, wish
from tests.lab.reconciled import migrating
from tests.lab.test_hook_operations import qcow2
from tests.lab.trouble import held
from tests.lab.watching import EVERYBODY, Watching, has_ours, wait_defined, wait_live
from virtrng.domain.contests import REMOVALS

NOBODY = '[domains]\nmanage = "off"'
BUSY = "is busy: a start, save, snapshot or migration is under way"


def assert_it_reads(guest: LabGuest) -> None:
    wait_for_rng(guest)
    assert read_hwrng(guest) == 64


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_a_guest_that_is_defined_and_started_in_one_breath(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path, machine: str
) -> None:
    with Watching(lab_host, tmp_path) as watching:
        with held(watching):
            guest = new_guest(machine=machine, root_ports=2)
            mark = guest.console_mark()
            lab_host.virsh("start", guest.name)
            assert rngs(live(guest)) == []
        wait_live(guest)
        wait_defined(guest)
        guest.wait_booted(mark)
        assert_it_reads(guest)
        status = watching.wait_until(lambda status: status.guests == {"managed": 1})
        assert (status.without_device, status.failures, status.noted) == (0, 0, ())
    assert wish(live(guest)) == {"device": "on"}


def test_the_last_free_port_is_left_to_the_owner(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    guest = new_guest(root_ports=1)
    lab_host.virsh("start", guest.name)
    with Watching(lab_host, tmp_path, EVERYBODY) as watching:
        wait_defined(guest)
        watching.wait_for_log(
            "running guest: its last free pcie-root-port is left to whatever else is plugged in:"
            f" from its next start\n  'virtrng enable {guest.name}' takes it"
        )
        assert rngs(live(guest)) == []
        status = watching.wait_until(lambda status: status.guests == {"managed": 1})
        assert status.noted == ()
        lab_host.virsh("destroy", guest.name)
        lab_host.virsh("start", guest.name)
        assert has_ours(live(guest))


def test_a_guest_that_is_never_defined_has_it_while_it_runs(
    lab_host: LabHost, image: GuestImage, tmp_path: Path
) -> None:
    guest = LabGuest(lab_host, "transient")
    with Watching(lab_host, tmp_path) as watching:
        for machine in ("q35", "pc"):
            lab_host.virsh(
                "create", "/dev/stdin", "--paused", stdin=domain_xml(guest.name, image=image, machine=machine)
            )
            try:
                wait_live(guest)
                watching.wait_until(lambda status: status.guests == {"managed": 1})
            finally:
                lab_host.virsh("destroy", guest.name)
            watching.wait_until(lambda status: status.guests == {})


def test_nothing_is_done_while_a_guest_migrates(
    lab_host: LabHost, second_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    guest = new_guest(root_ports=2)
    guest.boot()
    before = definition(guest), live(guest)
    lab_host.virsh("migrate-setspeed", guest.name, "1")
    with Watching(lab_host, tmp_path, NOBODY) as watching:
        with migrating(guest, second_host):
            watching.configure(EVERYBODY)
            watching.look_at_all()
            (noted,) = watching.wait_until(lambda status: status.guests == {"waiting": 1}).noted
            assert noted.why == f"{guest.name} {BUSY}"
            assert (definition(guest), live(guest)) == before
        wait_live(guest)
        wait_defined(guest)
        assert_it_reads(guest)
        watching.wait_for_log(f"{guest.name}: it is as it should be again")
        assert watching.log().count(BUSY) == 1


def test_a_guest_that_arrives_by_migration(
    lab_host: LabHost, second_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    (here_dir, there_dir) = (tmp_path / name for name in ("here", "there"))
    here_dir.mkdir()
    there_dir.mkdir()
    guest = new_guest(root_ports=2)
    guest.boot()
    lab_host.virsh("migrate-setspeed", guest.name, "1")
    with Watching(lab_host, here_dir, NOBODY) as here, Watching(second_host, there_dir) as there:
        with ThreadPoolExecutor(1) as pool:
            migration = pool.submit(guest.migrate, second_host)
            there.wait_until(lambda status: status.guests == {"waiting": 1})
            assert rngs(second_host.virsh("dumpxml", guest.name)) == []
            lab_host.virsh("migrate-setspeed", guest.name, "1000")
            migration.result()
        wait_live(guest)
        wait_defined(guest)
        assert_it_reads(guest)
        there.wait_until(lambda status: status.guests == {"managed": 1})
        here.wait_until(lambda status: status.guests == {"off": 1})
        # And back, the device with it.
        guest.start_reader()
        guest.migrate(lab_host)
        here.wait_until(lambda status: status.guests == {"managed": 1})
        wait_for_more_reads(guest)
        assert guest.stop_reader().failures == 0
        assert has_ours(live(guest))


def test_what_a_saved_image_lacks_is_given_when_it_is_restored(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    guest = new_guest(machine="pc")
    guest.boot()
    with Watching(lab_host, tmp_path, NOBODY) as watching:
        lab_host.virsh("managedsave", guest.name)
        watching.configure(EVERYBODY)
        watching.look_at_all()
        watching.wait_for_log("its saved image has its old devices, and its next start restores that")
        assert has_ours(definition(guest))
        lab_host.virsh("start", guest.name)
        wait_live(guest)
        assert_it_reads(guest)
        guest.start_reader()
        image = str(lab_host.root / "image")
        lab_host.virsh("save", guest.name, image)
        lab_host.virsh("restore", image)
        wait_for_more_reads(guest)
        assert guest.stop_reader().failures == 0
        status = watching.wait_until(lambda status: status.guests == {"managed": 1})
        assert (status.changes, status.failures) == (2, 0)
    assert has_ours(live(guest))


def test_what_a_revert_to_a_snapshot_takes_away_is_given_again(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    disk = qcow2(lab_host.outside("/var/lib/libvirt") / "disk.qcow2")
    source = "<driver name='qemu' type='qcow2'/><source file='/var/lib/libvirt/disk.qcow2'/>"
    disk_element = f"<disk type='file'>{source}<target dev='vda'/></disk>"
    guest = new_guest(machine="pc", extra_devices=disk_element)
    guest.boot()
    lab_host.virsh("snapshot-create-as", guest.name, "bare")
    with Watching(lab_host, tmp_path, EVERYBODY) as watching:
        wait_live(guest)
        wait_defined(guest)
        for _ in range(REMOVALS + 1):  # nobody contests it
            lab_host.virsh("snapshot-revert", guest.name, "bare", "--force")
            wait_live(guest)
            wait_defined(guest)
        assert_it_reads(guest)
        status = watching.wait_until(lambda status: status.guests == {"managed": 1})
        assert status.failures == 0
    lab_host.virsh("snapshot-delete", guest.name, "bare", "--metadata")
    disk.unlink()
