# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changes of a <domain> tree: each does nothing where nothing is to be done."""

from dataclasses import replace

import pytest

from virtrng.config import DomainSettings, Rate
from virtrng.domain import facts, transform, xml
from virtrng.domain.facts import Bus, Wish
from virtrng.domain.policy import Refusal, Request
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


FOREIGN = """<domain type='kvm'>
  <name>n</name>
  <devices>
    <rng model='virtio-transitional'>
      <backend model='egd' type='unix'>
        <source mode='connect' path='/x'/>
      </backend>
      <address type='pci' bus='0' slot='3'/>
    </rng>
    <disk/>
    <rng model='virtio'>
      <rate bytes='5'/>
      <backend model='builtin'/>
    </rng>
  </devices>
</domain>"""
REPLACE = Request(replace=True)


def test_the_filter_says_why_it_does_nothing() -> None:
    root = xml.parse(TEXT)
    assert transform.filtered(root, DomainSettings(), Request()) is None
    again = transform.filtered(root, DomainSettings(), Request())
    assert again == Refusal("already", "already has a virtio-rng (/dev/random, 4096 B/1000 ms)", "")
    same = transform.filtered(root, DomainSettings(), Request(model="virtio"))
    assert same
    assert same.code == "already"
    lxc = xml.parse(b"<domain type='lxc'/>")
    refusal = transform.filtered(lxc, DomainSettings(), Request())
    assert refusal
    assert refusal.why == "a guest of type 'lxc' has no virtio devices"
    assert xml.serialise(lxc) == b'<domain type="lxc"/>'


def test_foreign_devices_are_left_alone_unless_they_give_way() -> None:
    root = xml.parse(FOREIGN.encode())
    before = xml.serialise(root)
    refusal = transform.filtered(root, DomainSettings(), Request(rate=Rate(9000)))
    assert refusal
    assert refusal.why == (
        "already has 2 virtio-rngs (foreign, egd, unlimited; builtin, 5 B/1000 ms);"
        " --replace makes one of them"
    )
    assert xml.serialise(root) == before


@pytest.mark.parametrize("settings", [DomainSettings(foreign="replace"), DomainSettings()])
def test_replacing_leaves_one_at_the_place_of_the_first(settings: DomainSettings) -> None:
    root = xml.parse(FOREIGN.encode())
    request = Request() if settings.foreign == "replace" else REPLACE
    assert transform.filtered(root, settings, request) is None
    (device,) = facts.of(root).rngs
    # What the guest sees stays: the model and the place.
    place = Address((("type", "pci"), ("bus", "0"), ("slot", "3")))
    assert device == replace(OURS, model="virtio-transitional", address=place)
    assert [one.tag for one in root.find("devices")] == ["rng", "disk"]
    assert facts.of(root).wish == Wish(wanted=True)
    refusal = transform.filtered(root, settings, request)
    assert refusal
    assert refusal.code == "already"


def test_what_was_replaced_is_kept_word_for_word() -> None:
    root = xml.parse(FOREIGN.encode())
    texts = [xml.compact(one) for one in root.iterfind("devices/rng")]
    assert transform.kept(root) == ()
    transform.filtered(root, DomainSettings(), REPLACE)
    again = xml.parse(xml.serialise(root))
    assert [xml.text_of(one) for one in transform.kept(again)] == texts
    transform.keep(again, [xml.new("rng", {"model": "virtio"})])
    assert [xml.text_of(one) for one in transform.kept(again)] == [*texts, '<rng model="virtio"/>']
    # Without being told to keep it no wish holds it.
    transform.record(again, Wish(wanted=False))
    assert transform.kept(again) == ()


def test_what_a_person_wrote_there_counts_for_nothing() -> None:
    root = xml.parse(b"<domain/>")
    transform.record(root, Wish(wanted=True))
    for text in (
        "",
        "<rng",
        "<disk/>",
        "words",
        "<?xml version='1.0' encoding='x'?><rng/>",
        "<rng>&x;</rng>",
    ):
        xml.append(root.find(f"metadata/{xml.WISH}"), xml.new(xml.REPLACED, text=text))
    assert transform.kept(root) == ()


def test_what_is_noted_is_what_libvirt_takes() -> None:
    kept = xml.new("rng", {"model": "virtio"})
    assert transform.note(Wish(wanted=True, rate=Rate(5)), [kept]) == (
        '<guest device="on" bytes="5" period="1000"><replaced>&lt;rng model="virtio"/&gt;</replaced></guest>'
    )


def test_foreign_ones_beside_ours_give_way_to_it() -> None:
    both = FOREIGN.replace(
        "<disk/>", "<rng model='virtio'><backend model='random'/><alias name='ua-virtrng0'/></rng>"
    )
    root = xml.parse(both.encode())
    refusal = transform.filtered(root, DomainSettings(), Request())
    assert refusal
    assert refusal.code == "already"
    assert transform.filtered(root, DomainSettings(), REPLACE) is None
    assert facts.of(root).rngs == (OURS,)
    assert len(transform.kept(root)) == 2


def test_what_is_asked_for_changes_ours_and_its_wish() -> None:
    root = xml.parse(TEXT)
    transform.filtered(root, DomainSettings(), Request())
    assert facts.of(root).wish is None
    asked = Request(rate=Rate(70, 10), source="/dev/urandom", model="virtio-non-transitional")
    assert transform.filtered(root, DomainSettings(), asked) is None
    assert facts.of(root).ours == replace(
        OURS, source="/dev/urandom", rate=Rate(70, 10), model="virtio-non-transitional"
    )
    assert facts.of(root).wish == Wish(wanted=True, source="/dev/urandom", rate=Rate(70, 10))
    assert transform.filtered(root, DomainSettings(), asked)


@pytest.mark.parametrize(
    ("slots", "more", "full"), [(31, "", True), (30, "", False), (31, "pci-bridge", False)]
)
def test_a_bus_without_room_for_a_bridge_is_full(slots: int, more: str, *, full: bool) -> None:
    disks = "".join(f"<disk><address type='pci' slot='{slot}'/></disk>" for slot in range(1, slots + 1))
    bridge = f"<controller type='pci' index='1' model='{more}'/>" * bool(more)
    os = "<os><type arch='x86_64' machine='pc'>hvm</type></os>"
    root = xml.parse(f"<domain type='kvm'>{os}<devices>{disks}{bridge}</devices></domain>".encode())
    refusal = transform.filtered(root, DomainSettings(), Request())
    assert (refusal is not None) is full
    if refusal:
        assert (refusal.code, refusal.why) == ("no-slot", "each slot of its only PCI bus is taken")


def test_a_wish_for_none_is_respected() -> None:
    root = xml.parse(FOREIGN.encode())
    transform.record(root, Wish(wanted=False))
    before = xml.serialise(root)
    refusal = transform.filtered(root, DomainSettings(), replace(REPLACE, rate=Rate(500)))
    assert refusal
    assert refusal.code == "unwanted"
    assert xml.serialise(root) == before
