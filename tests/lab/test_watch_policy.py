# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which guests `virtrng watch` looks after, and what it does about those that it cannot or may not."""

import re
from pathlib import Path
from uuid import uuid4

from tests.lab.conftest import NewGuest
from tests.lab.guest import LabGuest
from tests.lab.host import LabHost
from tests.lab.product import ALIAS, FOREIGN, canonical, definition, live, rngs, virtrng, wait_for_rng, wish
from tests.lab.watching import EVERYBODY, Watching, detach, has_ours, redefine, wait_defined, wait_live

NOBODY = '[domains]\nmanage = "off"'
# As virt-install writes it (libosinfo's id).
OS = (
    "<libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>"
    "<libosinfo:os id='http://microsoft.com/win/11'/></libosinfo:libosinfo>"
)
NOVA = "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'/>"
OVIRT = "<ovirt-vm:vm xmlns:ovirt-vm='http://ovirt.org/vm/1.0'/>"
EGD = (
    "<rng model='virtio'><backend model='egd' type='unix'>"
    "<source mode='bind' path='/run/virtrng-lab/egd'/></backend></rng>"
)
# It takes the name that our device is to have.
IN_THE_WAY = f"<sound model='es1370'><alias name='{ALIAS}'/></sound>"


def enable(guest: LabGuest, command: str = "enable") -> None:
    said = virtrng(guest.host, command, guest.name)
    assert (said.code, said.err) == (0, "")


def test_guests_that_were_there_before_it_are_left_alone(
    lab_host: LabHost, second_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    olds = [new_guest(), new_guest()]
    before = [definition(old) for old in olds]
    with Watching(lab_host, tmp_path) as watching:
        new = new_guest()
        wait_defined(new)
        redefine(olds[0], before[0])
        watching.wait_until(lambda status: status.guests == {"before": 2, "managed": 1})
        watching.stop()
        newer = new_guest()
        watching.start()
        wait_defined(newer)
        watching.look_at_all()
        watching.wait_until(lambda status: status.guests == {"before": 2, "managed": 2})
        assert [rngs(definition(old)) for old in olds] == [[], []]
        assert wish(definition(olds[0])) is None
        # One that its owner enables is looked after from then on.
        enable(olds[0])
        detach(olds[0])
        watching.look_at_all()
        wait_defined(olds[0])
        watching.wait_until(lambda status: status.guests == {"before": 1, "managed": 3})
        assert virtrng(second_host, "watch", "--once", config=watching.config).code == 0
        hosts = [re.search("<uuid>(.*)</uuid>", one.virsh("capabilities")) for one in (lab_host, second_host)]
        assert {path.stem for path in watching.state_dir.iterdir()} == {one[1] for one in hosts if one}
    assert definition(olds[1]) == before[1]


def test_a_libvirtd_that_makes_up_another_uuid_of_its_host_is_no_other_host(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    conf = lab_host.outside("/etc/libvirt/libvirtd.conf")
    before, old = conf.read_text(), new_guest()
    with Watching(lab_host, tmp_path) as watching:
        lab_host.stop_daemon()
        try:
            conf.write_text(re.sub('host_uuid = ".*"', f'host_uuid = "{uuid4()}"', before))
            lab_host.start_daemon()
            new = new_guest()
            wait_defined(new)
            watching.wait_until(lambda status: status.guests == {"before": 1, "managed": 1})
            assert (
                watching.log().count("libvirt tells another UUID of its host than before\n  host_uuid_") == 1
            )
        finally:
            conf.write_text(before)
            lab_host.restart_daemon()
        memories = [path.read_text() for path in watching.state_dir.iterdir()]
        assert len(memories) == 2
        assert len({*memories}) == 1
        assert lab_host.virsh("domuuid", old.name) in memories[0]


def test_all_or_none_and_what_the_guests_themselves_want(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    plain, wants, refuses = new_guest(), new_guest(), new_guest(extra_devices=FOREIGN)
    enable(wants)
    enable(refuses, "disable")
    before = definition(plain), definition(refuses)
    with Watching(lab_host, tmp_path, NOBODY) as watching:
        watching.wait_until(lambda status: status.guests == {"managed": 1, "off": 1, "unwanted": 1})
        detach(wants)
        watching.look_at_all()
        wait_defined(wants)
        assert (definition(plain), definition(refuses)) == before
        watching.configure(f'{EVERYBODY}\nforeign = "replace"')
        watching.look_at_all()
        wait_defined(plain)
        watching.wait_until(lambda status: status.guests == {"managed": 2, "unwanted": 1})
        # The wish is what is asked of the watcher as it runs, too.
        enable(plain, "disable")
        for guest in (plain, refuses):
            redefine(guest, definition(guest).replace("<vcpu", "<title>another</title><vcpu"))
        watching.look_at_all()
        watching.wait_until(lambda status: status.guests == {"managed": 1, "unwanted": 2})
    assert rngs(definition(plain)) == []
    assert [one.source for one in rngs(definition(refuses))] == ["/dev/urandom"]


def test_rules_for_some(lab_host: LabHost, new_guest: NewGuest, tmp_path: Path) -> None:
    named, windows, other = new_guest(), new_guest(metadata=OS), new_guest()
    rules = f"""
[[domains.rule]]
match = "{named.name[:-1]}[{named.name[-1]}]"
manage = "all"
rate = {{ bytes = 1024, period_ms = 500 }}
[[domains.rule]]
os = "*microsoft*"
manage = "all"
source = "/dev/urandom"
"""
    with Watching(lab_host, tmp_path, rules) as watching:
        wait_defined(named)
        wait_defined(windows)
        watching.wait_until(lambda status: status.guests == {"managed": 2, "before": 1})
        watching.configure(rules.replace("1024", "2048"))
        watching.look_at_all()
        watching.wait_for_log(
            f"{named.name}: definition: changed from /dev/random, 1024 B/500 ms to /dev/random, 2048 B/500 ms"
        )
    (one,), (second,) = rngs(definition(named)), rngs(definition(windows))
    assert (one.source, one.rate) == ("/dev/random", (2048, 500))
    assert (second.source, second.rate) == ("/dev/urandom", (4096, 1000))
    assert rngs(definition(other)) == []


def test_guests_of_other_programs(lab_host: LabHost, new_guest: NewGuest, tmp_path: Path) -> None:
    with Watching(lab_host, tmp_path, f'{EVERYBODY}\nforeign = "replace"') as watching:
        guests = [new_guest(metadata=NOVA), new_guest(metadata=OVIRT, extra_devices=FOREIGN)]
        watching.wait_until(lambda status: status.guests == {"elsewhere": 2})
        assert [one.source for guest in guests for one in rngs(definition(guest))] == ["/dev/urandom"]
        assert all(wish(definition(guest)) is None for guest in guests)
        enable(guests[0])  # named it is given one, and that is all
        detach(guests[0])
        watching.look_at_all()
        status = watching.wait_until(lambda status: status.guests == {"elsewhere": 2})
        assert (status.changes, status.without_device) == (0, 1)
    assert rngs(definition(guests[0])) == []


def test_a_device_of_another_is_kept(lab_host: LabHost, new_guest: NewGuest, tmp_path: Path) -> None:
    with Watching(lab_host, tmp_path) as watching:
        guest = new_guest(extra_devices=FOREIGN)
        before = canonical(definition(guest))
        status = watching.wait_until(lambda status: status.guests == {"foreign": 1})
        assert (status.changes, status.without_device, status.noted) == (0, 0, ())
    assert canonical(definition(guest)) == before


def test_a_device_of_another_is_replaced_live_where_that_is_safe(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    booted, risky = new_guest(machine="pc", extra_devices=FOREIGN), new_guest(extra_devices=EGD)
    lab_host.virsh("start", risky.name)
    booted.boot()
    with Watching(lab_host, tmp_path, f'{EVERYBODY}\nforeign = "replace"') as watching:
        defined = new_guest(extra_devices=FOREIGN)
        for guest in (booted, risky, defined):
            wait_defined(guest)
            assert len(rngs(definition(guest))) == 1
        wait_live(booted)
        watching.wait_for_log("QEMU may not survive the loss of its egd device: from its next start")
        watching.wait_until(lambda status: status.guests == {"managed": 3})
        assert [one.alias for one in rngs(live(booted))] == [ALIAS]
        assert [one.alias for one in rngs(live(risky))] == ["rng0"]


def bare(domain: str) -> str:
    """Return a definition without device and wish, as a program that knows of neither writes it."""
    return re.sub("<rng.*</rng>|<metadata>.*</metadata>", "", domain, flags=re.DOTALL)


def test_a_device_that_is_taken_away_again_and_again(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    with Watching(lab_host, tmp_path) as watching:
        guest = new_guest()
        wait_defined(guest)
        detach(guest)
        watching.look_at_all()
        wait_defined(guest)
        redefine(guest, bare(definition(guest)))
        watching.wait_until(lambda status: status.changes == 3)
        detach(guest)
        watching.look_at_all()
        told = (
            f"{guest.name}: left alone: its device was removed 3 times within an hour;"
            f" 'virtrng enable {guest.name}' gives it one"
        )
        watching.wait_for_log(told)
        redefine(guest, definition(guest))
        watching.look_at_all()
        (noted,) = watching.wait_until(lambda status: status.guests == {"contested": 1}).noted
        assert (noted.name, noted.word) == (guest.name, "contested")
        assert rngs(definition(guest)) == []
        assert watching.log().count(told) == 1
        enable(guest)
        watching.look_at_all()
        watching.wait_for_log(f"{guest.name}: it is as it should be again")
        redefine(guest, bare(definition(guest)))
        status = watching.wait_until(lambda status: status.changes == 4)
        assert (status.guests, status.failures, status.noted) == ({"managed": 1}, 0, ())
    assert has_ours(definition(guest))


def test_a_guest_that_is_made_anew_each_time_is_not_contested(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    with Watching(lab_host, tmp_path) as watching:
        guest = new_guest()
        for _ in range(4):
            wait_defined(guest)
            before = bare(definition(guest))
            lab_host.virsh("undefine", guest.name)
            redefine(guest, before)
        wait_defined(guest)
        watching.wait_until(lambda status: status.guests == {"managed": 1})


def test_a_device_that_is_unplugged_again_and_again(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    guest = new_guest(machine="pc")
    guest.boot()
    with Watching(lab_host, tmp_path, EVERYBODY) as watching:
        for number in range(1, 4):
            watching.wait_for_log("running guest: given a virtio-rng", times=number)
            wait_for_rng(guest)  # before that it does not let go
            lab_host.virsh("detach-device-alias", guest.name, ALIAS, "--live")
        watching.wait_until(lambda status: status.guests == {"contested": 1})
        watching.look_at_all()
        watching.look_at_all()
        assert rngs(live(guest)) == []
        lab_host.virsh("destroy", guest.name)
        lab_host.virsh("start", guest.name)
        watching.wait_until(lambda status: status.guests == {"managed": 1})
        assert has_ours(live(guest))


def full(new_guest: NewGuest) -> LabGuest:
    """Define a guest that has a device in every slot of its bus (0x01 is the chipset's own)."""
    address = "<address type='pci' bus='0' slot='{}'/>"
    sounds = [f"<sound model='es1370'>{address.format(slot)}</sound>" for slot in range(3, 32)]
    video = f"<video><model type='cirrus'/>{address.format(2)}</video>"
    return new_guest(machine="pc", extra_devices=video + "".join(sounds))


def test_what_refuses_a_guest_is_said_once(lab_host: LabHost, new_guest: NewGuest, tmp_path: Path) -> None:
    with Watching(lab_host, tmp_path) as watching:
        guests = [new_guest(machine="isapc"), full(new_guest)]
        why = ("its machine has no bus for a virtio device", "every slot of its PCI bus is in use")
        for _ in range(2):
            watching.look_at_all()
            status = watching.wait_until(lambda status: status.guests == {"refused": 2})
        told = [f"{guest.name}: {one}" for guest, one in zip(guests, why, strict=True)]
        assert {one.why for one in status.noted} == {*told}
        assert (status.failures, status.without_device) == (0, 2)
        assert [watching.log().count(one) for one in told] == [1, 1]
        roomy = re.sub("<sound.*?</sound>", "", definition(guests[1]), count=1, flags=re.DOTALL)
        redefine(guests[1], roomy)
        wait_defined(guests[1])
        watching.wait_for_log(f"{guests[1].name}: it is as it should be again")


def test_what_fails_is_tried_again_and_said_once(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    with Watching(lab_host, tmp_path) as watching:
        guest, other = new_guest(machine="pc", extra_devices=IN_THE_WAY), new_guest()
        wait_defined(other)
        watching.wait_until(lambda status: status.failures >= 2)
        (noted,) = watching.wait_until(lambda status: status.guests == {"failed": 1, "managed": 1}).noted
        assert noted.why.startswith(f"libvirt failed to attach the device to {guest.name}: ")
        assert watching.log().count("non unique alias") == 1
        lab_host.virsh("detach-device", guest.name, "/dev/stdin", "--config", stdin=IN_THE_WAY)
        watching.look_at_all()
        wait_defined(guest)
        watching.wait_for_log(f"{guest.name}: it is as it should be again")
