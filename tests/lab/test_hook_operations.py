# SPDX-License-Identifier: LGPL-2.1-or-later
"""What else befalls a guest than start and end, under the strictest policy: the hook lets it happen."""

import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.conftest import NewGuest
from tests.lab.guest import LabGuest, domain_xml
from tests.lab.hooks import Hooks, installed
from tests.lab.host import SERIAL_DIR, LabHost
from tests.lab.images import GuestImage, LabError
from tests.lab.product import ALIAS, OURS, definition, live, rngs, wait_for_more_reads, wait_for_rng
from tests.scale import LONG, scaled

START = ["prepare", "start", "started"]
END = ["stopped", "release"]
REFUSED = "this host's policy requires one"
# libvirt 10.5 tells of a revert in the 'release' before it; until then it is a fresh start to a hook.
TELLS_OF_REVERTS = (10, 5)


@pytest.fixture(scope="module")
def hooks(lab_host: LabHost) -> Iterator[Hooks]:
    """Yield the shared host's hooks, ours installed and refusing."""
    with installed(lab_host) as hooks:
        hooks.configure('require = "refuse"')
        yield hooks


def test_a_guest_that_crashes_can_start_again(hooks: Hooks, lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(extra_devices=OURS)
    lab_host.virsh("start", guest.name)
    pid = lab_host.outside(f"/run/libvirt/qemu/{guest.name}.pid").read_text().strip()
    subprocess.run(lab_host.inside("sh", "-c", f"kill -9 {pid}"), check=True)
    guest.wait_state("shut off")
    lab_host.virsh("start", guest.name)
    assert hooks.calls(guest) == [*START, *END, *START]


def test_a_guest_that_is_reset_or_reboots_keeps_its_device(
    hooks: Hooks, lab_host: LabHost, new_guest: NewGuest
) -> None:
    guest = new_guest(extra_devices=OURS)
    guest.boot()
    acts: list[Callable[[], str]] = [
        lambda: lab_host.virsh("reset", guest.name),
        lambda: guest.run("(sleep 0.2; reboot -f) >/dev/null 2>&1 &"),
    ]
    for act in acts:
        mark = guest.console_mark()
        act()
        guest.wait_booted(mark)
        wait_for_rng(guest)
    assert hooks.calls(guest) == START


def qcow2(path: Path, size_bytes: int = 2**26) -> Path:
    """Make an empty disk that QEMU can save a running guest in (docs/interop/qcow2.txt, version 3)."""
    cluster = 2**16
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, size_bytes, 0, 1, 3 * cluster, cluster, 1, 0, 0,
        0, 0, 0, 4, 104,
    )  # fmt: skip
    refcounts = struct.pack(">4H", 1, 1, 1, 1)
    clusters = (header, struct.pack(">Q", 2 * cluster), refcounts, b"")
    path.write_bytes(b"".join(one.ljust(cluster, b"\0") for one in clusters))
    return path


def with_disk(host: LabHost, new_guest: NewGuest, device: str) -> LabGuest:
    """Define a guest that snapshots can be taken of."""
    disk = qcow2(host.outside("/var/lib/libvirt") / "disk.qcow2")
    disk.chmod(0o600)
    source = "<driver name='qemu' type='qcow2'/><source file='/var/lib/libvirt/disk.qcow2'/>"
    return new_guest(extra_devices=f"{device}<disk type='file'>{source}<target dev='vda'/></disk>")


def test_reverting_to_a_snapshot_with_the_device(
    hooks: Hooks, lab_host: LabHost, new_guest: NewGuest
) -> None:
    guest = with_disk(lab_host, new_guest, OURS)
    guest.boot()
    wait_for_rng(guest)
    guest.start_reader()
    lab_host.virsh("snapshot-create-as", guest.name, "one")
    hooks.calls(guest)
    for _ in range(2):
        lab_host.virsh("snapshot-revert", guest.name, "one")
        assert guest.state() == "running"
        wait_for_more_reads(guest)
        assert guest.reader_report().failures == 0
        lab_host.virsh("destroy", guest.name)  # and once from there
    assert {"prepare", "start", "started"} <= set(hooks.calls(guest))
    lab_host.virsh("snapshot-delete", guest.name, "one", "--metadata")


def test_reverting_to_a_snapshot_without_it(hooks: Hooks, lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = with_disk(lab_host, new_guest, "")
    hooks.configure("")
    lab_host.virsh("start", guest.name)
    lab_host.virsh("snapshot-create-as", guest.name, "one")
    hooks.configure('require = "refuse"')
    found = re.search(r"using library: libvirt (\d+)\.(\d+)", lab_host.virsh("version"), re.IGNORECASE)
    assert found is not None
    if (int(found[1]), int(found[2])) >= TELLS_OF_REVERTS:
        lab_host.virsh("snapshot-revert", guest.name, "one")
        assert guest.state() == "running"
    else:  # as docs/hook.md says
        with pytest.raises(LabError, match=REFUSED):
            lab_host.virsh("snapshot-revert", guest.name, "one", "--force")
        assert guest.state() == "shut off"
    lab_host.virsh("snapshot-delete", guest.name, "one", "--metadata")


def test_a_foreign_device_whose_source_is_not_on_this_host(
    hooks: Hooks, lab_host: LabHost, new_guest: NewGuest
) -> None:
    source = lab_host.outside(SERIAL_DIR) / "source"
    source.symlink_to("/dev/urandom")
    backend = f"<backend model='random'>{SERIAL_DIR}/{source.name}</backend>"
    guest = new_guest(extra_devices=f"<rng model='virtio'><rate bytes='777'/>{backend}</rng>")
    lab_host.virsh("start", guest.name)
    (before,) = rngs(live(guest))
    saved = lab_host.root / "saved"
    for there in (True, False):  # as on a host that has no such file
        lab_host.virsh("save", guest.name, str(saved))
        if not there:
            source.unlink()
        lab_host.virsh("restore", str(saved))
        (after,) = rngs(live(guest))
        assert after == (before if there else replace(before, source="/dev/random"))
        assert hooks.tainted(guest) is not there
    saved.unlink()


def test_a_definition_alone_migrates(
    hooks: Hooks, lab_host: LabHost, second_host: LabHost, new_guest: NewGuest
) -> None:
    with installed(second_host) as there:
        there.configure('require = "refuse"')
        for device in (OURS, ""):
            guest = new_guest(extra_devices=device)
            before = definition(guest)
            lab_host.virsh("migrate", "--offline", "--persistent", guest.name, second_host.uri)
            guest.host = second_host
            try:
                assert there.calls(guest) == ["migrate"]
                assert hooks.calls(guest) == []
                assert rngs(definition(guest)) == rngs(before)
            finally:
                second_host.virsh("undefine", guest.name)
                guest.host = lab_host


def test_a_guest_that_is_never_defined(hooks: Hooks, lab_host: LabHost, image: GuestImage) -> None:
    name = "transient"
    refused = domain_xml(name, image=image)
    with pytest.raises(LabError, match=f"{name} has no virtio-rng.*define it through 'virtrng xml'"):
        lab_host.virsh("create", "/dev/stdin", stdin=refused)
    assert name not in lab_host.virsh("list", "--all", "--name").split()
    guest = LabGuest(lab_host, name)
    lab_host.virsh("create", "/dev/stdin", stdin=domain_xml(name, image=image, extra_devices=OURS))
    try:
        assert [one.alias for one in rngs(live(guest))] == [ALIAS]
    finally:
        lab_host.virsh("destroy", name)
    assert hooks.calls(guest) == ["prepare", *END, *START, *END]


def test_many_start_at_once(hooks: Hooks, lab_host: LabHost, new_guest: NewGuest) -> None:
    count = 50 if scaled(1) == LONG else 10
    guests = [new_guest(extra_devices=OURS if n % 2 else "", memory_mib=32) for n in range(count)]

    def start(guest: LabGuest) -> str:
        try:
            return lab_host.virsh("start", "--paused", guest.name)
        except LabError as error:
            return str(error)

    with ThreadPoolExecutor(count) as pool:
        said = [*pool.map(start, guests)]
    for number, (guest, text) in enumerate(zip(guests, said, strict=True)):
        refused = number % 2 == 0
        assert (REFUSED in text) is refused, text
        assert guest.state() == ("shut off" if refused else "paused")
    assert hooks.marks() == []
