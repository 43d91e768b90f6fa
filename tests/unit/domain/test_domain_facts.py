# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a domain's XML says that matters to us."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from virtrng.config import Rate
from virtrng.domain import facts, transform, xml
from virtrng.domain.facts import Bus, Facts, Wish


def of(text: str) -> Facts:
    return facts.of(xml.parse(text.encode()))


def machine(arch: str, name: str, more: str = "") -> Facts:
    attributes = f"arch='{arch}'" * bool(arch) + f" machine='{name}'" * bool(name)
    return of(f"<domain type='kvm'><os><type {attributes}>hvm</type></os>{more}</domain>")


def pci(model: str) -> str:
    return f"<devices><controller type='pci' index='0' model='{model}'/></devices>"


@pytest.mark.parametrize(
    ("arch", "name", "more", "bus"),
    [
        ("x86_64", "q35", "", Bus.PCIE),
        ("x86_64", "pc-q35-7.2", "", Bus.PCIE),
        ("x86_64", "pc", "", Bus.PCI),
        ("x86_64", "pc-i440fx-7.2", "", Bus.PCI),
        ("x86_64", "", "", Bus.PCI),
        ("", "", "", Bus.PCI),
        ("x86_64", "custom", pci("pcie-root"), Bus.PCIE),
        ("x86_64", "custom", pci("pci-root"), Bus.PCI),
        ("x86_64", "microvm", "", Bus.NONE),
        ("i686", "isapc", "", Bus.NONE),
        ("aarch64", "none", "", Bus.NONE),
        ("aarch64", "virt", "", Bus.PCIE),
        ("aarch64", "virt-7.2", "", Bus.PCIE),
        ("aarch64", "", "", Bus.PCIE),
        ("armv7l", "vexpress-a15", "", Bus.MMIO),
        ("riscv64", "virt", "", Bus.PCIE),
        ("riscv64", "spike", "", Bus.NONE),
        ("aarch64", "raspi3b", "", Bus.NONE),
        ("armv6l", "versatilepb", "", Bus.PCI),
        ("sparc", "SS-5", "", Bus.NONE),
        ("sparc64", "sun4u", "", Bus.PCI),
        ("m68k", "q800", "", Bus.NONE),
        ("mips", "malta", "", Bus.PCI),
        ("mips64", "magnum", "", Bus.NONE),
        ("loongarch64", "virt", "", Bus.PCIE),
        ("s390x", "s390-ccw-virtio", "", Bus.CCW),
        ("s390x", "", "", Bus.CCW),
        ("ppc64le", "pseries", "", Bus.PCI),
    ],
)
def test_bus(arch: str, name: str, more: str, bus: Bus) -> None:
    assert machine(arch, name, more).bus is bus


@pytest.mark.parametrize(
    ("arch", "name", "more", "hotplug"),
    [
        ("x86_64", "pc", "", False),
        ("i686", "pc", "", False),
        ("x86_64", "pc", "<features><acpi/></features>", True),
        ("x86_64", "q35", "", True),
        ("s390x", "", "", True),
        ("ppc64le", "pseries", "", True),
        ("armv7l", "vexpress-a15", "", False),
    ],
)
def test_hotplug(arch: str, name: str, more: str, *, hotplug: bool) -> None:
    assert machine(arch, name, more).hotplug is hotplug


ADDRESSED = """<domain type='kvm'><devices>
  <controller type='pci' index='0' model='pcie-root'/>
  <controller type='pci' index='1' model='pcie-root-port'>
    <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/></controller>
  <controller type='pci' index='2' model='pcie-root-port'>
    <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x1'/></controller>
  <controller type='pci' index='0x3' model='pcie-root-port'/>
  <controller type='pci' index='x' model='pcie-root-port'/>
  <disk><address type='pci' bus='0x01' slot='0x00'/></disk>
  <video><address type='pci' bus='0' slot='17'/></video>
  <disk><address type='drive' bus='0' unit='5'/></disk>
  <disk><address type='pci' domain='0x0001' bus='0x00' slot='0x09'/></disk>
  <disk><address type='pci' bus='x' slot='0x0a'/></disk>
</devices></domain>"""


def test_addresses() -> None:
    found = of(ADDRESSED)
    assert found.addressed
    assert found.slots_used == {0x02, 17}
    assert found.free_ports == 2
    assert not of("<domain type='kvm'><devices><a/></devices></domain>").addressed
    assert not of("<domain><devices><d><address type='ccw'/></d></devices></domain>").addressed


def test_names_and_devices() -> None:
    found = of(
        "<domain type='qemu'><name>n</name><uuid>u</uuid><devices>"
        "<rng model='virtio'><backend model='random'/></rng>"
        "<rng model='virtio'><backend model='random'/><alias name='ua-virtrng0'/></rng></devices></domain>"
    )
    assert (found.name, found.uuid, found.type, len(found.rngs)) == ("n", "u", "qemu", 2)
    assert found.ours is found.rngs[1]
    assert found.foreign is found.rngs[0]
    empty = of("<domain/>")
    assert (empty.name, empty.uuid, empty.type, empty.os, empty.rngs, empty.wish) == (
        "",
        "",
        "",
        "",
        (),
        None,
    )
    assert empty.ours is None
    assert empty.foreign is None


def test_the_system_of_the_guest() -> None:
    namespace = "http://libosinfo.org/xmlns/libvirt/domain/1.0"
    text = f"<l:libosinfo xmlns:l='{namespace}'><l:os id='http://debian.org/debian/12'/></l:libosinfo>"
    assert of(f"<domain><metadata>{text}</metadata></domain>").os == "http://debian.org/debian/12"
    assert of(f"<domain><metadata><l:libosinfo xmlns:l='{namespace}'/></metadata></domain>").os == ""


@pytest.mark.parametrize(
    ("metadata", "manager"),
    [
        ("", None),
        ("<a:b xmlns:a='urn:other'/><!-- x -->", None),
        ("<n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'/>", "Nova"),
        ("<a:b xmlns:a='urn:other'/><o:vm xmlns:o='http://ovirt.org/vm/1.0'/>", "oVirt"),
        ("<o:qos xmlns:o='http://ovirt.org/vm/tune/1.0'/>", "oVirt"),
        ("<kubevirt xmlns='http://kubevirt.io'/>", "KubeVirt"),
        ("<l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'/>", None),
    ],
)
def test_who_manages_it(metadata: str, manager: str | None) -> None:
    assert of(f"<domain><metadata>{metadata}</metadata></domain>").manager == manager


def test_what_qemu_is_asked_about() -> None:
    found = of(
        "<domain><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>"
        "<devices><emulator>/usr/bin/qemu</emulator></devices></domain>"
    )
    assert (found.arch, found.machine, found.emulator) == ("x86_64", "pc-q35-7.2", "/usr/bin/qemu")


def test_only_devices_have_places() -> None:
    found = of(
        "<domain><address type='pci' bus='0' slot='3'/>"
        "<x><hub><address type='pci' bus='0' slot='4'/></hub></x>"
        "<devices><hostdev><source><address type='pci' bus='0' slot='5'/></source></hostdev></devices>"
        "<x><devices><controller type='pci' index='1' model='pcie-root-port'/></devices></x></domain>"
    )
    assert (found.slots_used, found.free_ports, found.addressed) == (frozenset(), 0, False)


def wish(attributes: str) -> Wish | None:
    guest = f"<v:guest xmlns:v='urn:virtrng:domain:1' {attributes}/>"
    return of(f"<domain><metadata>{guest}</metadata></domain>").wish


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("", Wish(wanted=True)),
        ("device='on'", Wish(wanted=True)),
        ("device='off'", Wish(wanted=False)),
        ("source='/dev/urandom'", Wish(wanted=True, source="/dev/urandom")),
        ("bytes='5'", Wish(wanted=True, rate=Rate(5, 1000))),
        ("bytes='5' period='7'", Wish(wanted=True, rate=Rate(5, 7))),
        ("bytes='4294967295' period='4294967295'", Wish(wanted=True, rate=Rate(4294967295, 4294967295))),
        ("bytes='4294967296'", Wish(wanted=True)),
        ("bytes='0'", Wish(wanted=True)),
        ("bytes='5' period='0'", Wish(wanted=True)),
        ("bytes='-5'", Wish(wanted=True)),
        ("bytes='x'", Wish(wanted=True)),
        ("period='7'", Wish(wanted=True)),
        (f"bytes='{'9' * 5000}'", Wish(wanted=True)),
    ],
)
def test_a_wish(attributes: str, expected: Wish) -> None:
    assert wish(attributes) == expected


@pytest.mark.parametrize(
    "what", [Wish(wanted=True), Wish(wanted=False), Wish(wanted=True, source="/dev/urandom", rate=Rate(1, 2))]
)
def test_a_wish_that_is_written_is_read(what: Wish) -> None:
    root = xml.parse(b"<domain/>")
    transform.record(root, what)
    assert facts.of(root).wish == what


VALUES = st.sampled_from(
    ["", "0", "0x00", "x", "-1", "010", "9" * 5000, "pci", "virtio", "\u0661", "pcie-root-port"]
)
NAMES = st.sampled_from(
    ["type", "model", "index", "bus", "slot", "domain", "bytes", "period", "name", "device"]
)
TAGS = st.sampled_from(
    ["devices", "rng", "controller", "address", "rate", "backend", "alias", "metadata", "os"]
)


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> str:
    attributes = draw(st.dictionaries(NAMES, VALUES, max_size=4))
    inner = "".join(draw(st.lists(elements(depth - 1), max_size=3))) if depth else ""
    tag = draw(TAGS)
    return f"<{tag} {' '.join(f'{name}={value!r}' for name, value in attributes.items())}>{inner}</{tag}>"


@settings(derandomize=True, max_examples=scaled(80))
@given(st.lists(elements(), max_size=3))
def test_whatever_it_says_it_is_read(parts: list[str]) -> None:
    found = of(f"<domain type='kvm'><devices>{''.join(parts)}</devices>{''.join(parts)}</domain>")
    assert isinstance(found.bus, Bus)
    assert found.free_ports >= 0
