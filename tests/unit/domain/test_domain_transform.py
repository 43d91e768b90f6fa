# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changes of a <domain> tree: each does nothing where nothing is to be done."""

from dataclasses import replace

import pytest

from virtrng.config import DomainSettings, Rate
from virtrng.domain import facts, transform, xml
from virtrng.domain.facts import Bus, Wish
from virtrng.domain.policy import Request
from virtrng.domain.rng import ALIAS, Address, RngDevice

OURS = RngDevice("/dev/random", Rate(4096, 1000), alias=ALIAS)
GUEST = facts.of(xml.parse(b"<domain type='kvm'><os><type machine='q35'>hvm</type></os></domain>"))


@pytest.mark.parametrize(
    ("used", "slot"),
    [(set(), 0x19), ({0x19}, 0x18), ({0x19, 0x18, 0x17}, 0x16), (set(range(3, 0x20)), 0x02)],
)
def test_the_place_on_pcie_is_the_highest_free_slot(used: set[int], slot: int) -> None:
    placed = transform.placed(OURS, replace(GUEST, slots_used=frozenset(used)))
    assert placed == replace(OURS, address=Address.on_root_complex(slot))


def test_implicit_slots_are_left_alone() -> None:
    for used in range(0x20):
        placed = transform.placed(OURS, replace(GUEST, slots_used=frozenset(set(range(0x20)) - {used})))
        implicit = used in (0, 1, 0x1A, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F)
        assert (placed.address is None) is implicit


@pytest.mark.parametrize("bus", [bus for bus in Bus if bus is not Bus.PCIE])
def test_elsewhere_libvirt_finds_the_place(bus: Bus) -> None:
    assert transform.placed(OURS, replace(GUEST, bus=bus)) == OURS


TEXT = b"<domain type='kvm'>\n  <name>n</name>\n  <devices>\n    <disk/>\n  </devices>\n</domain>"


def test_adding_twice_is_adding_once_and_removing_undoes_it() -> None:
    root = xml.parse(TEXT)
    transform.add(root, OURS)
    once = xml.serialise(root)
    transform.add(root, replace(OURS, source="/dev/urandom"))
    assert xml.serialise(root) == once
    assert facts.of(root).rngs == (OURS,)
    transform.remove(root)
    assert xml.serialise(root) == TEXT.replace(b"'", b'"')
    transform.remove(root)
    assert xml.serialise(root) == TEXT.replace(b"'", b'"')


def test_a_device_without_an_alias_is_added_as_it_is() -> None:
    root = xml.parse(TEXT)
    for _ in range(2):
        transform.add(root, replace(OURS, alias=None))
    assert len(facts.of(root).rngs) == 2
    transform.remove(root)
    assert len(facts.of(root).rngs) == 2, "they are not ours"


def test_recording_replaces_and_none_removes() -> None:
    root = xml.parse(TEXT)
    for wish in (Wish(wanted=True, rate=Rate(5)), Wish(wanted=False)):
        transform.record(root, wish)
        assert facts.of(root).wish == wish
    assert len(root.find("metadata")) == 1
    transform.record(root, None)
    transform.record(root, None)
    assert facts.of(root).wish is None


def test_recording_leaves_the_metadata_of_others() -> None:
    root = xml.parse(b"<domain><metadata><a:a xmlns:a='urn:a'/></metadata></domain>")
    before = xml.serialise(root)
    transform.record(root, Wish(wanted=True))
    transform.record(root, None)
    assert xml.serialise(root) == before


MIXED = """<domain type='kvm'><name>n</name><devices>
<rng model='virtio'><backend model='random'>/dev/hwrng</backend></rng>
<rng model='virtio'><rate bytes='1'/><backend model='random'>/dev/urandom</backend><alias name='ua-virtrng0'/>
<address type='pci' bus='0' slot='3'/></rng>
</devices></domain>"""


def test_retargeting_changes_ours_alone() -> None:
    root = xml.parse(MIXED.encode())
    assert transform.retargeted(root, DomainSettings()) is True
    foreign, ours = facts.of(root).rngs
    assert (foreign.source, foreign.rate) == ("/dev/hwrng", None)
    assert (ours.source, ours.rate) == ("/dev/random", Rate(4096, 1000))
    assert ours.address is not None
    assert transform.retargeted(root, DomainSettings()) is False


@pytest.mark.parametrize(
    "text",
    [
        "<domain type='kvm'/>",
        MIXED.replace("ua-virtrng0", "ua-other"),
        MIXED.replace("type='kvm'", "type='xen'"),
        MIXED.replace("<name>n</name>", "<os><type machine='microvm'>hvm</type></os>"),
    ],
    ids=["none", "foreign", "xen", "microvm"],
)
def test_what_is_not_ours_or_in_doubt_is_not_retargeted(text: str) -> None:
    root = xml.parse(text.encode())
    before = xml.serialise(root)
    assert transform.retargeted(root, DomainSettings()) is False
    assert xml.serialise(root) == before


def test_the_filter_says_why_it_does_nothing() -> None:
    root = xml.parse(TEXT)
    assert transform.filtered(root, DomainSettings(), Request()) is None
    again = transform.filtered(root, DomainSettings(), Request())
    assert again == "already has a virtio-rng (/dev/random, 4096 B/1000 ms)"
    lxc = xml.parse(b"<domain type='lxc'/>")
    assert (
        transform.filtered(lxc, DomainSettings(), Request()) == "a guest of type 'lxc' has no virtio devices"
    )
    assert xml.serialise(lxc) == b'<domain type="lxc"/>'
