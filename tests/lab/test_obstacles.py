# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can stand in the way of a device, each met once: seen before anything is touched, and explained."""

import re

import pytest

from tests.lab.conftest import NewGuest
from tests.lab.host import LabHost
from tests.lab.product import ALIAS, canonical, definition, live, rngs, virtrng, wish
from tests.lab.reconciled import SETTINGS, disable, enable, migrating
from virtrng import config
from virtrng.config import Rate
from virtrng.domain import policy, reconcile
from virtrng.domain.halves import Scope
from virtrng.domain.hypervisor import Guest, Hypervisor
from virtrng.domain.policy import Request
from virtrng.domain.standing import Standing, State
from virtrng.errors import HypervisorFault, NotAttached, Refused

# As libvirt 9.0 tells it of a QEMU without the device (docs/formatdomaincaps.rst).
WITHOUT_RNG = b"<domainCapabilities><devices><rng supported='no'/></devices></domainCapabilities>"
WITHOUT_RANDOM = (
    b"<domainCapabilities><devices><rng supported='yes'><enum name='model'><value>virtio</value></enum>"
    b"<enum name='backendModel'><value>builtin</value></enum></rng></devices></domainCapabilities>"
)


@pytest.mark.parametrize(
    ("told", "lacking"), [(WITHOUT_RNG, "virtio-rng"), (WITHOUT_RANDOM, "random among its rng backends")]
)
def test_a_qemu_without_the_device(
    new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch, told: bytes, lacking: str
) -> None:
    guest = new_guest()
    before = definition(guest)
    monkeypatch.setattr(Guest, "capabilities", lambda *_: told)
    with pytest.raises(Refused) as caught:
        enable(guest)
    assert str(caught.value) == f"{guest.name}: /usr/bin/qemu-system-x86_64 has no {lacking}"
    assert "virsh domcapabilities" in caught.value.remedy
    assert definition(guest) == before


def test_this_qemu_has_it(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    with Hypervisor(lab_host.uri) as hypervisor:
        found = hypervisor.guest(guest.name)
        told = found.capabilities("/usr/bin/qemu-system-x86_64", "x86_64", "q35", "qemu")
        assert told is not None
        assert found.capabilities("/usr/bin/qemu-system-x86_64", "x86_64", "q35", "qemu") is told
        assert found.capabilities("/nonexistent", "x86_64", "q35", "qemu") is None
    assert b"<rng supported='yes'>" in told


def test_a_source_that_qemu_cannot_open(new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = new_guest(machine="pc")
    guest.host.virsh("start", guest.name)
    monkeypatch.setattr(policy, "SAFE_SOURCES", (*config.SAFE_SOURCES, "/dev/none"))
    outcome = enable(guest, Request(source="/dev/none"))
    assert (outcome.config, outcome.live) == ("attached", "failed")
    assert isinstance(outcome.error, HypervisorFault)
    assert "Could not open '/dev/none': No such file or directory" in str(outcome.error)
    assert "definition: given a virtio-rng (/dev/none" in outcome.why


def test_a_guest_that_migrates_must_wait(
    lab_host: LabHost, second_host: LabHost, new_guest: NewGuest
) -> None:
    guest = new_guest()
    guest.boot()
    before = definition(guest), live(guest)
    lab_host.virsh("migrate-setspeed", guest.name, "1")
    with migrating(guest, second_host):
        for command in ("enable", "disable"):
            said = virtrng(lab_host, command, guest.name)
            assert (said.code, said.out) == (1, "")
            assert said.err == (
                f"virtrng: {guest.name} is busy: a start, save, snapshot or migration is under way\n"
                "  wait for its start, save or migration to end, then run the same command again\n"
            )
        (row,) = (line for line in virtrng(lab_host, "status").out.splitlines() if guest.name in line)
        assert row.split()[1] == "busy"
    assert (definition(guest), live(guest)) == before
    assert enable(guest).error is None


def test_a_paused_guest_takes_it_and_is_not_waited_for(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    lab_host.virsh("start", "--paused", guest.name)
    assert (enable(guest).live, len(rngs(live(guest)))) == ("attached", 1)
    outcome = disable(guest)
    assert (outcome.config, outcome.live) == ("detached", "next-start")
    assert "running guest: it is paused, and lets go of nothing: gone at its next start" in outcome.why


def test_a_crashed_guest_gets_it_at_its_next_start(
    lab_host: LabHost, new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest(root_ports=2)
    lab_host.virsh("start", guest.name)
    monkeypatch.setattr(Guest, "state", lambda _: State.CRASHED)  # it takes a pvpanic device and its driver
    outcome = enable(guest)
    assert (outcome.config, outcome.live) == ("attached", "next-start")
    assert "running guest: it has crashed: at its next start" in outcome.why
    with pytest.raises(Refused, match="it has crashed"):
        enable(guest, scope=Scope(config=False))
    assert rngs(live(guest)) == []


def test_a_saved_image_keeps_its_old_devices(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    lab_host.virsh("start", guest.name)
    lab_host.virsh("managedsave", guest.name)
    note = (
        "its saved image has its old devices, and its next start restores that;"
        f" 'virsh managedsave-remove {guest.name}' gives the image up"
    )
    assert enable(guest).notes == (note,)
    lab_host.virsh("start", guest.name)
    assert rngs(live(guest)) == []
    lab_host.virsh("managedsave", guest.name)
    assert disable(guest).notes[1:] == ()  # there is nothing to give up


def test_snapshots_keep_their_old_devices(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    for name in ("one", "two"):
        domain = definition(guest)
        lab_host.virsh(
            "snapshot-create",
            guest.name,
            "/dev/stdin",
            "--redefine",
            stdin=f"<domainsnapshot><name>{name}</name><state>shutoff</state>"
            f"<creationTime>1</creationTime>{domain}</domainsnapshot>",
        )
        (note,) = enable(guest).notes
        which = "one of its snapshots has" if name == "one" else "2 of its snapshots have"
        assert note.startswith(f"{which} its old devices, and a revert brings them back: ")
        disable(guest, forget=True)
    said = virtrng(lab_host, "enable", guest.name)
    assert "2 of its snapshots have its old devices" in said.out


def test_a_definition_that_is_replaced_right_after_it_was_changed(
    lab_host: LabHost, new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest()
    before = definition(guest)
    attach = Guest.attach

    def replaced_then(self: Guest, device: str, *, live: bool) -> None:
        attach(self, device, live=live)
        lab_host.virsh("define", "/dev/stdin", stdin=before)

    monkeypatch.setattr(Guest, "attach", replaced_then)
    with pytest.raises(NotAttached, match="although libvirt reported success"):
        enable(guest)
    assert canonical(definition(guest)) == canonical(before)
    monkeypatch.undo()
    assert enable(guest).config == "attached"


def test_a_place_that_somebody_takes_meanwhile(
    lab_host: LabHost, new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest()
    attach = Guest.attach
    taken = "<memballoon model='virtio'><address type='pci' bus='0' slot='0x19'/></memballoon>"

    def taken_before(self: Guest, device: str, *, live: bool) -> None:
        changed = definition(guest).replace("<memballoon model='none'/>", taken)
        lab_host.virsh("define", "/dev/stdin", stdin=changed)
        monkeypatch.undo()
        attach(self, device, live=live)

    monkeypatch.setattr(Guest, "attach", taken_before)
    assert enable(guest).config == "attached"
    assert [(one.alias, one.bus, one.slot) for one in rngs(definition(guest))] == [(ALIAS, 0, 0x18)]
    assert wish(definition(guest)) == {"device": "on"}


def test_a_guest_that_ends_meanwhile(
    lab_host: LabHost, new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest(root_ports=2)
    lab_host.virsh("start", guest.name)
    attach = Guest.attach

    def ended_before(self: Guest, device: str, *, live: bool) -> None:
        if live:
            lab_host.virsh("destroy", guest.name)
        attach(self, device, live=live)

    monkeypatch.setattr(Guest, "attach", ended_before)
    outcome = enable(guest)
    assert (outcome.config, outcome.live, outcome.error) == ("attached", "not-running", None)
    assert "it has stopped meanwhile" in outcome.why


def test_a_guest_that_has_ended_since_it_was_listed(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    with Hypervisor(lab_host.uri) as hypervisor:
        found = hypervisor.guest(guest.name)
        found._standing = Standing(active=True, persistent=True, saved=False, snapshots=False)
        outcome = reconcile.enable(found, SETTINGS, Request())
    assert (outcome.config, outcome.error) == ("attached", None)


@pytest.mark.parametrize("model", ["virtio-transitional", "virtio-non-transitional"])
@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_each_model(lab_host: LabHost, new_guest: NewGuest, machine: str, model: str) -> None:
    guest = new_guest(machine=machine, root_ports=2)
    before = definition(guest)
    lab_host.virsh("start", guest.name)
    outcome = enable(guest, Request(model=model))
    plugged = model != "virtio-transitional" or machine == "pc"
    assert (outcome.config, outcome.live) == ("attached", "attached" if plugged else "next-start")
    assert outcome.error is None
    assert f"<rng model='{model}'>" in definition(guest)
    assert enable(guest).config == "already"
    lab_host.virsh("destroy", guest.name)
    lab_host.virsh("start", guest.name)
    assert f"<rng model='{model}'>" in live(guest)
    lab_host.virsh("destroy", guest.name)
    enable(guest, Request(model="virtio"))
    assert [(one.alias, one.rate) for one in rngs(definition(guest))] == [(ALIAS, (4096, 1000))]
    assert "<rng model='virtio'>" in definition(guest)
    disable(guest, forget=True)
    assert len(re.findall("<rng", definition(guest))) == 0
    assert definition(guest).count("<disk") == before.count("<disk")


def test_a_rate_that_keeps_a_guest_waiting(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    said = virtrng(lab_host, "enable", "--rate", "7/1000", guest.name)
    assert (said.code, said.out) == (3, "")
    assert "insist with 'virtrng enable --force'" in said.err
    assert rngs(definition(guest)) == []
    said = virtrng(lab_host, "enable", "--rate", "7/1000", "--force", guest.name)
    assert said.code == 0
    assert "at 7 B/1000 ms a guest may wait 9.14 s for its generator to be ready" in said.out
    assert enable(guest).config == "already"
    assert enable(guest, Request(rate=Rate(63))).notes != ()
    assert enable(guest, Request(rate=Rate(64))).notes == ()
