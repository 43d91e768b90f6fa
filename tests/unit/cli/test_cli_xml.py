# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng xml` over golden pairs: tests/data/xml/CASE-in.xml and what comes of it, CASE-out.xml.

VIRTRNG_REGENERATE=1 writes the outputs anew; look at the difference before you keep it.
"""

import os
from functools import cache
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree

from tests.unit.cli.conftest import Command
from tests.unit.support import ROOT, difference
from virtrng.domain import xml

DATA = ROOT / "tests" / "data" / "xml"
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
CASES = sorted(file.name.removesuffix("-in.xml") for file in DATA.glob("*-in.xml"))
OURS = "devices/rng[alias/@name='ua-virtrng0']"
WISH = "metadata/*[namespace-uri()='urn:virtrng:domain:1']"

# What is asked for, where that is something.
OPTIONS = {
    "ascii": ["--replace"],
    "asked": ["--rate", "65536/250", "--source", "/dev/urandom"],
    "asked-anew": ["--rate", "512/250"],
    "namespaces": ["--replace"],
    "replaced": ["--replace"],
    "replaced-addressed": ["--replace"],
    "replaced-beside-ours": ["--replace"],
    "replaced-two": ["--replace", "--model", "virtio-transitional"],
}
# Those that need no change, and what is said of them.
_NO_BUS = "passed through: its machine has no bus for a virtio device"
PASSED = {
    "microvm": f"microvm: {_NO_BUS}",
    "isapc": f"isapc: {_NO_BUS}",
    "raspberry": f"raspberry: {_NO_BUS}",
    "lxc": "container: passed through: a guest of type 'lxc' has no virtio devices",
    "xen": "dom1: passed through: a guest of type 'xen' has no virtio devices",
    "vmware": "esx: passed through: a guest of type 'vmware' has no virtio devices",
    "wanted-off": "proud: passed through: its own metadata say that it wants none",
    "ours": "done: passed through: already has a virtio-rng (/dev/urandom, 512 B/250 ms)",
    "i440fx-full": "full: passed through: each slot of its only PCI bus is taken",
    "foreign": "foreign: passed through: already has a virtio-rng (foreign, /dev/urandom, unlimited),"
    " fed by the same host pool; --replace brings it to policy",
    "two-rngs": "two: passed through: already has 2 virtio-rngs (foreign, egd, unlimited;"
    " builtin, 1024 B/1000 ms); --replace makes one of them",
}
NOTES = PASSED | {"several": f"second: {_NO_BUS}", "several-declared": f"é4: {_NO_BUS}"}
SEVERAL = {"several", "several-declared"}
CHANGED = [name for name in CASES if name not in PASSED]
ONE_CHANGED = [name for name in CHANGED if name not in SEVERAL]
# The test driver knows neither other types of guests nor their machines.
NOT_DEFINED = {"lxc", "xen", "vmware", "qemu-namespace", "entities", *SEVERAL}


def case(name: str) -> bytes:
    return (DATA / f"{name}-in.xml").read_bytes()


def golden(name: str) -> bytes:
    return (DATA / f"{name}-out.xml").read_bytes()


@cache
def schema() -> Any:
    return etree.RelaxNG(file=str(SCHEMA))


def parsed(content: bytes) -> Any:
    parser = etree.XMLParser(resolve_entities=False)
    return etree.fromstring(content.strip() if b"\0" not in content else content, parser)


def test_there_are_enough_and_no_output_without_its_input() -> None:
    assert len(CASES) >= 60
    assert {file.name.removesuffix("-out.xml") for file in DATA.glob("*-out.xml")} == set(CASES)
    assert set(CASES) >= OPTIONS.keys() | NOTES.keys() | NOT_DEFINED


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml, "serialise", None)  # none of these is written by the parser
    ran = command("xml", *OPTIONS.get(name, []), DATA / f"{name}-in.xml")
    assert ran.code == 0
    assert ran.err.splitlines() == ([NOTES[name]] if name in NOTES else [])
    if os.environ.get("VIRTRNG_REGENERATE"):
        (DATA / f"{name}-out.xml").write_bytes(ran.out)
    assert ran.out == golden(name)


@pytest.mark.parametrize("name", CASES)
def test_from_stdin_it_is_the_same(name: str, command: Command) -> None:
    assert command("xml", *OPTIONS.get(name, []), stdin=case(name)).out == golden(name)


@pytest.mark.parametrize("name", CASES)
def test_a_second_time_changes_nothing(name: str, command: Command) -> None:
    assert command("xml", *OPTIONS.get(name, []), stdin=golden(name)).out == golden(name)
    assert command("xml", stdin=golden(name)).out == golden(name)


@pytest.mark.parametrize("name", PASSED)
def test_what_needs_no_change_comes_back_byte_for_byte(name: str, command: Command) -> None:
    assert case(name) == golden(name)
    for around in (b"", b"\n", b"\r\n \t"):
        content = around + case(name) + around
        assert command("xml", stdin=content).out == content


@pytest.mark.parametrize("name", [name for name in ONE_CHANGED if name not in OPTIONS])
def test_nothing_but_one_device_was_inserted(name: str) -> None:
    gone, come = difference(case(name), golden(name))
    assert parsed(golden(name)).xpath(OURS)[0].getnext() is None
    if name in ("empty-devices", "devices-closed", "one-line"):
        assert gone.strip() in (b"/", b"")  # <devices/> has become <devices> and </devices>
    else:
        assert gone == b""
    letters = come.replace(b"\0", b"")
    assert (letters.count(b"</rng"), letters.count(b"ua-virtrng0")) == (1, 1)


def bare(content: bytes) -> bytes:
    """Return the document without what is ours or was replaced, and without white space."""
    root = parsed(content)
    for element in root.xpath(f"devices/rng | {WISH}"):
        element.getparent().remove(element)
    for element in root.xpath("devices[not(node())] | metadata[not(*)]"):
        root.remove(element)
    for element in root.iter():
        if isinstance(element.tag, str):
            element.text = (element.text or "").strip() or None
        element.tail = (element.tail or "").strip() or None
    for element in root.xpath("devices[not(node())] | metadata[not(node())]"):
        root.remove(element)
    # Canonical XML has no word for an entity.
    return bytes(etree.tostring(root, method="xml" if name_of_entity(root) else "c14n"))


def name_of_entity(root: Any) -> bool:
    return any(True for _ in root.iter(etree.Entity))


@pytest.mark.parametrize("name", ONE_CHANGED)
def test_all_else_is_as_it_was(name: str) -> None:
    assert bare(case(name)) == bare(golden(name))
    assert len(parsed(golden(name)).findall("devices/rng")) == 1


@pytest.mark.parametrize("name", [name for name in CASES if name not in {*SEVERAL, "entities"}])
def test_libvirts_schema_takes_what_it_took_before(name: str) -> None:
    assert schema().validate(parsed(case(name))), schema().error_log.last_error
    assert schema().validate(parsed(golden(name))), schema().error_log.last_error


def _for_the_test_driver(content: bytes) -> str:
    """Make a guest of type 'test' of it, on the driver's own machine, and without addresses to judge."""
    root = parsed(content)
    root.set("type", "test")
    kind = root.find("os/type")
    kind.attrib.clear()
    for name in ("features", "cpu", "os/kernel", "launchSecurity"):
        for element in root.findall(name):
            element.getparent().remove(element)
    root.find("os").attrib.pop("firmware", None)
    for element in root.xpath("devices/controller | devices/*/address"):
        element.getparent().remove(element)
    return str(etree.tostring(root, encoding="unicode"))


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_DEFINED])
def test_libvirt_defines_it(name: str, command: Command) -> None:
    connection = libvirt.open("test:///default")
    try:
        for content in (case(name), golden(name)):
            domain = connection.defineXML(_for_the_test_driver(content))
            kept = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            domain.undefine()
    finally:
        connection.close()
    if name in CHANGED:
        assert len(etree.fromstring(kept).xpath(OURS)) == 1
        # What libvirt prints of it is as it should be.
        as_guest = kept.replace("<domain type='test'", "<domain type='kvm'").encode()
        assert command("xml", *OPTIONS.get(name, []), stdin=as_guest).out == as_guest


def test_encodings_and_declarations_are_kept() -> None:
    assert golden("utf-16").startswith(b"\xff\xfe")
    assert "中文" in golden("utf-16").decode("utf-16")
    assert "\U0001d518\U0001d52b\U0001d526 中文" in golden("utf-16-be").decode("utf-16")
    assert "café" in golden("latin-1").decode("latin-1")
    assert "Привет" in golden("koi8-r").decode("koi8-r")
    assert b'encoding="iso-8859-1"' in golden("latin-1")
    assert golden("declaration").startswith(b'<?xml version="1.0"')
    assert golden("q35").startswith(b"<domain")
    assert golden("bom").startswith(b"\xef\xbb\xbf<?xml")
    assert golden("crlf").count(b"\r\n") == golden("crlf").count(b"\n")


def test_it_is_written_as_the_rest_is() -> None:
    assert b"\n\t\t<rng model='virtio'>\n\t\t\t<rate " in golden("tabs").replace(b"\t\t  <", b"\t\t\t<")
    assert b'<rng model="virtio">' in golden("quotes")
    assert b"<rng model='virtio'>" in golden("crlf")


def test_entities_are_not_expanded() -> None:
    assert b"<title>&title; &secret;</title>" in golden("entities")


def address_of(name: str) -> dict[str, str] | None:
    found = parsed(golden(name)).xpath(f"{OURS}/address")
    return dict(found[0].attrib) if found else None


def test_where_it_goes_on_pcie() -> None:
    places = {"q35-addressed": "0x18", "q35-ports": "0x17", "aarch64-addressed": "0x19"}
    for name, slot in (places | {"q35-other-segment": "0x19"}).items():
        assert address_of(name) == {
            "type": "pci", "domain": "0x0000", "bus": "0x00", "slot": slot, "function": "0x0",
        }  # fmt: skip
    # Left to libvirt: a document without addresses, a bus that is full, other machines.
    for name in ("q35", "aarch64", "q35-crowded", "i440fx", "i440fx-addressed", "s390x-addressed", "ppc64"):
        assert address_of(name) is None


def test_what_takes_the_place_of_another_stays_where_that_was() -> None:
    (device,) = parsed(golden("replaced-addressed")).xpath(OURS)
    assert device.get("model") == "virtio-non-transitional"
    assert dict(device.find("driver").attrib) == {"iommu": "on", "ats": "on"}
    assert device.find("address").get("slot") == "0x05"
    assert [one.tag for one in parsed(golden("replaced-addressed")).find("devices")] == [
        "disk", "rng", "input",
    ]  # fmt: skip
    (device,) = parsed(golden("replaced-two")).xpath(OURS)
    assert device.get("model") == "virtio-transitional"


def test_what_was_replaced_is_kept_as_it_was() -> None:
    kept = [etree.fromstring(one.text) for one in parsed(golden("replaced-two")).xpath(f"{WISH}/*")]
    before = parsed(case("replaced-two")).findall("devices/rng")
    for one, other in zip(kept, before, strict=True):
        etree.indent(other)
        etree.indent(one)
        other.tail = None
        assert etree.tostring(one, method="c14n") == etree.tostring(other, method="c14n")
