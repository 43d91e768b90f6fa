# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng xml` between what makes a definition and a real libvirtd."""

from pathlib import Path

import pytest
from lxml import etree

from tests.lab.conftest import NewGuest
from tests.lab.guest import domain_xml
from tests.lab.host import LabHost
from tests.lab.images import GuestImage
from tests.lab.product import (
    ALIAS,
    canonical,
    definition,
    live,
    read_hwrng,
    rng_current,
    rngs,
    virtrng,
)

DATA = Path(__file__).parents[1] / "data" / "xml"
OURS = f"devices/rng[alias/@name='{ALIAS}']"
# What libvirt refuses as it comes: an entity, and what this machine cannot do.
NOT_HERE = {"entities", "launch-security", "microvm"}


def _of_this_host(case: str) -> list[str]:
    """Return a golden pair as text, for QEMU for x86 without KVM; nothing if it is not for that."""
    pair = [(DATA / f"{case}-{end}.xml").read_bytes() for end in ("in", "out")]
    if case.startswith("several") or case in NOT_HERE:
        return []
    roots = [etree.fromstring(content.strip(b"\n")) for content in pair]
    for root in roots:
        kind = root.find("os/type")
        if root.get("type") != "kvm" or kind.get("arch", "x86_64") != "x86_64":
            return []
        root.set("type", "qemu")
    return [etree.tostring(root, encoding="unicode") for root in roots]


CASES = sorted(file.name.removesuffix("-in.xml") for file in DATA.glob("*-in.xml"))
GOLDEN = {case: pair for case in CASES if (pair := _of_this_host(case))}


def _others(domain: str, *, addressed: bool) -> str:
    """Return a guest without its random number devices, and where it had no addresses without libvirt's."""
    root = etree.fromstring(domain)
    by_libvirt = [] if addressed else root.xpath("devices/*/address | devices/controller[@type='pci']")
    for element in [*root.xpath("uuid | devices/rng"), *by_libvirt]:
        element.getparent().remove(element)
    return canonical(etree.tostring(root, encoding="unicode"), with_wish=False)


@pytest.mark.parametrize("case", GOLDEN)
def test_libvirt_makes_of_it_what_it_made_before_and_the_device(lab_host: LabHost, case: str) -> None:
    given, filtered = GOLDEN[case]
    before, after = _defined(lab_host, given), _defined(lab_host, filtered)
    # Where no slot is free libvirt makes room by itself, with controllers more.
    addressed = "<address type='pci'" in given.replace('"', "'") and case != "q35-crowded"
    assert _others(after, addressed=addressed) == _others(before, addressed=addressed)
    assert len(etree.fromstring(after).xpath(OURS)) == (ALIAS in filtered)
    # And what libvirt prints of it needs no change.
    again = virtrng(lab_host, "xml", stdin=after)
    assert (again.code, again.out) == (0, after)


def _defined(host: LabHost, document: str) -> str:
    """Define a guest, and return what libvirt makes of it."""
    host.virsh("define", "/dev/stdin", "--validate", stdin=document)
    name = etree.fromstring(document).findtext("name")
    printed = host.virsh("dumpxml", "--inactive", name)
    host.virsh("undefine", name, "--nvram")
    return printed


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_a_filtered_definition_boots_with_the_device(
    lab_host: LabHost, image: GuestImage, new_guest: NewGuest, machine: str
) -> None:
    guest = new_guest()
    lab_host.virsh("undefine", guest.name)
    said = virtrng(lab_host, "xml", stdin=domain_xml(guest.name, image=image, machine=machine))
    assert (said.code, said.err) == (0, "")
    lab_host.virsh("define", "/dev/stdin", "--validate", stdin=said.out)
    assert [(one.alias, one.rate) for one in rngs(definition(guest))] == [(ALIAS, (4096, 1000))]
    guest.boot()
    assert rng_current(guest) == "virtio_rng.0"
    assert read_hwrng(guest) == 64
    assert len(rngs(live(guest))) == 1
    # With the device in it, what libvirt prints needs no change, whoever gave it.
    for dumped in (f"{definition(guest)}\n\n", live(guest)):
        said = virtrng(lab_host, "xml", stdin=dumped)
        assert (said.code, said.out) == (0, dumped)
        assert "already has a virtio-rng" in said.err
    assert "has it already" in virtrng(lab_host, "enable", guest.name).out


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_what_libvirt_prints_can_be_filtered_and_defined_again(
    lab_host: LabHost, new_guest: NewGuest, machine: str
) -> None:
    guest = new_guest(machine=machine)
    said = virtrng(lab_host, "xml", "--rate", "512/250", stdin=definition(guest))
    assert (said.code, said.err) == (0, "")
    lab_host.virsh("define", "/dev/stdin", "--validate", stdin=said.out)
    (device,) = rngs(definition(guest))
    assert (device.alias, device.rate) == (ALIAS, (512, 250))
    # On a PCIe machine the spare root port stays free: the device is on the root complex.
    assert device.bus == 0
    again = virtrng(lab_host, "xml", stdin=definition(guest))
    assert again.out == definition(guest)


@pytest.mark.parametrize("machine", ["microvm", "isapc"])
def test_a_machine_without_a_bus_for_it_passes_through(
    lab_host: LabHost, new_guest: NewGuest, machine: str
) -> None:
    guest = new_guest(machine=machine)
    before = definition(guest)
    said = virtrng(lab_host, "xml", stdin=before)
    assert (said.code, said.out) == (0, before)
    assert "its machine has no bus for a virtio device" in said.err


def test_several_guests_in_a_row_are_all_defined(lab_host: LabHost, new_guest: NewGuest) -> None:
    guests = [new_guest(machine=machine) for machine in ("q35", "pc", "q35")]
    said = virtrng(lab_host, "xml", stdin="\n\n".join(map(definition, guests)))
    assert said.code == 0
    documents = said.out.split("</domain>")[:-1]
    for guest, document in zip(guests, documents, strict=True):
        lab_host.virsh("define", "/dev/stdin", stdin=f"{document}</domain>")
        assert [one.alias for one in rngs(definition(guest))] == [ALIAS]
