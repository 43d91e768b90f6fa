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
from tests.unit.support import ROOT
from virtrng.errors import ExitCode, MalformedXml, Refused

DATA = ROOT / "tests" / "data" / "xml"
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
CASES = sorted(file.name.removesuffix("-in.xml") for file in DATA.glob("*-in.xml"))

# Those that need no change, and what is said of them.
PASSED = {
    "microvm": "microvm: its machine has no bus for a virtio device: passed through",
    "isapc": "isapc: its machine has no bus for a virtio device: passed through",
    "lxc": "container: a guest of type 'lxc' has no virtio devices: passed through",
    "foreign": "foreign: already has a virtio-rng (/dev/urandom, unlimited): passed through",
    "two-rngs": "two: already has a virtio-rng (egd, unlimited): passed through",
}
NOTES = PASSED | {"several": "second: its machine has no bus for a virtio device: passed through"}
# The test driver knows neither other types of guests nor their machines.
NOT_DEFINED = {"lxc", "several", "qemu-namespace", "entities"}


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
    assert len(CASES) >= 20
    assert {file.name.removesuffix("-out.xml") for file in DATA.glob("*-out.xml")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, command: Command) -> None:
    ran = command("xml", DATA / f"{name}-in.xml")
    assert ran.code == 0
    assert ran.err.splitlines() == ([NOTES[name]] if name in NOTES else [])
    if os.environ.get("VIRTRNG_REGENERATE"):
        (DATA / f"{name}-out.xml").write_bytes(ran.out)
    assert ran.out == golden(name)


@pytest.mark.parametrize("name", CASES)
def test_from_stdin_it_is_the_same(name: str, command: Command) -> None:
    assert command("xml", stdin=case(name)).out == golden(name)


@pytest.mark.parametrize("name", CASES)
def test_a_second_time_changes_nothing(name: str, command: Command) -> None:
    assert command("xml", stdin=golden(name)).out == golden(name)


@pytest.mark.parametrize("name", PASSED)
def test_what_needs_no_change_comes_back_byte_for_byte(name: str, command: Command) -> None:
    for around in (b"", b"\n", b"\r\n \t"):
        content = around + case(name) + around if not case(name).startswith(b"<?xml") else case(name) + around
        assert command("xml", stdin=content).out == content


@pytest.mark.parametrize("name", [name for name in CASES if name not in PASSED and name != "several"])
def test_nothing_but_one_device_was_added(name: str) -> None:
    before, after = parsed(case(name)), parsed(golden(name))
    (device,) = after.findall("devices/rng")
    siblings = device.getparent()
    assert siblings[-1] is device
    siblings.remove(device)
    if name == "no-devices":
        after.remove(siblings)
    for root in (before, after):
        for element in root.iter(etree.Element):  # only the white space around what was added may differ
            element.text = (element.text or "").strip() or None
            element.tail = (element.tail or "").strip() or None
        for comment in root.iter(etree.Comment, etree.Entity):
            comment.tail = (comment.tail or "").strip() or None
    method = "xml" if name == "entities" else "c14n"  # which has no word for an entity
    assert etree.tostring(before, method=method) == etree.tostring(after, method=method)


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("several", "entities")])
def test_libvirts_schema_takes_what_it_took_before(name: str) -> None:
    assert schema().validate(parsed(case(name))), schema().error_log.last_error
    assert schema().validate(parsed(golden(name))), schema().error_log.last_error


def _for_the_test_driver(content: bytes) -> str:
    """Make a guest of type 'test' of it, on the driver's own machine, and without addresses to judge."""
    root = parsed(content)
    root.set("type", "test")
    kind = root.find("os/type")
    kind.attrib.clear()
    for name in ("features", "cpu", "os/kernel"):
        for element in root.findall(name):
            element.getparent().remove(element)
    root.find("os").attrib.pop("firmware", None)
    for controller in root.findall("devices/controller"):
        controller.getparent().remove(controller)
    for element in root.findall("devices/*/address"):
        element.getparent().remove(element)
    return str(etree.tostring(root, encoding="unicode"))


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_DEFINED])
def test_libvirt_defines_it(name: str) -> None:
    connection = libvirt.open("test:///default")
    try:
        for content in (case(name), golden(name)):
            domain = connection.defineXML(_for_the_test_driver(content))
            kept = etree.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
            domain.undefine()
    finally:
        connection.close()
    if name not in PASSED:
        (device,) = kept.findall("devices/rng")
        assert device.find("alias").get("name") == "ua-virtrng0"


def test_encodings_and_declarations_are_kept() -> None:
    assert golden("utf-16").startswith(b"\xff\xfe")
    assert "中文" in golden("utf-16").decode("utf-16")
    assert "café" in golden("latin-1").decode("latin-1")
    assert b"encoding='iso-8859-1'" in golden("latin-1")
    assert golden("declaration").startswith(b"<?xml version='1.0'")
    assert golden("q35").startswith(b"<domain")


def test_entities_are_not_expanded(command: Command) -> None:
    assert b"<title>&title; &secret;</title>" in golden("entities")
    bomb = b"<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'>" + b"".join(
        b"<!ENTITY %c '%s'>" % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(8)
    )
    ran = command("xml", stdin=bomb + b"]><domain type='kvm'><title>&i;</title></domain>")
    assert len(ran.out) < 2000


def test_where_it_goes_on_pcie() -> None:
    address = parsed(golden("q35-addressed")).find("devices/rng/address")
    assert dict(address.attrib) == {
        "type": "pci", "domain": "0x0000", "bus": "0x00", "slot": "0x18", "function": "0x0",
    }  # fmt: skip
    for name in ("q35", "aarch64", "i440fx", "s390x"):
        assert parsed(golden(name)).find("devices/rng/address") is None


# --- options


MINIMAL = b"<domain type='kvm'><name>a</name><os><type>hvm</type></os></domain>"


def test_rate_and_source(command: Command) -> None:
    ran = command("xml", "--rate", "65536/250", "--source", "/dev/urandom", stdin=MINIMAL)
    assert b'<rate bytes="65536" period="250"/><backend model="random">/dev/urandom</backend>' in ran.out


def test_the_configuration_counts_and_the_options_come_first(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "virtrng.toml"
    file.write_text(
        "[domains]\nsource = '/dev/urandom'\nrate.bytes = 5\n[[domains.rule]]\nmatch = 'b*'\nrate.bytes = 6\n"
    )
    assert b'<rate bytes="5" period="1000"/>' in command("--config-file", file, "xml", stdin=MINIMAL).out
    other = MINIMAL.replace(b">a<", b">b1<")
    assert b'bytes="6"' in command("--config-file", file, "xml", stdin=other).out
    assert b'bytes="7"' in command("--config-file", file, "xml", "--rate", "7/1", stdin=other).out


@pytest.mark.parametrize("source", ["/dev/hwrng", "random", "/run/egd", "/dev/random "])
def test_a_source_that_would_kill_qemu_is_refused(source: str, command: Command) -> None:
    ran = command("xml", "--source", source, stdin=MINIMAL)
    assert (ran.code, ran.out) == (ExitCode.REFUSED, b"")
    trouble = Refused("--source", f"QEMU dies or hangs when '{source}' fails or ends", "")
    assert ran.err.splitlines() == [
        f"virtrng: {trouble}",
        "  choose /dev/random or /dev/urandom with --source",
    ]


# --- bad input


BAD = [
    (b"", 1, 1, "Document is empty"),
    (b" \n", 2, 1, ""),
    (b"nonsense", 1, 1, "Start tag expected, '<' not found"),
    (b"<domain", 1, 8, ""),
    (b"<domain>\n<a>\n</domain>", 3, 10, "Opening and ending tag mismatch: a line 2 and domain"),
    (b"\n\n<domain>\n<a></b>\n</domain>", 4, 8, "Opening and ending tag mismatch: a line 4 and b"),
    (b"<network/>", 1, 1, "<network> where <domain> is expected"),
    (b"<domain/><domain/>", 1, 10, "Extra content at the end of the document"),
    (b"<domain></domain> x", 1, 19, "Start tag expected, '<' not found"),
    (b"\xff\xfe\x00", 1, 1, ""),
    (b"<domain>\x00</domain>", 1, 9, ""),
    (b"<domain>&none;</domain>", 1, 15, "Entity 'none' not defined"),
    (b"<a:domain xmlns:a='urn:x'/>", 1, 1, "<domain> where <domain> is expected"),
]


@pytest.mark.parametrize(("content", "line", "column", "reason"), BAD, ids=[repr(row[0]) for row in BAD])
def test_malformed(content: bytes, line: int, column: int, reason: str, command: Command) -> None:
    ran = command("xml", stdin=content)
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.splitlines()[0].startswith(f"virtrng: line {line}, column {column}: {reason}")
    assert ran.err.splitlines()[1] == f"  {MalformedXml.hint}"


@pytest.mark.parametrize("between", [b"\n", b"", b" ", b"\n<!-- </domain> -->\n"])
def test_a_second_document_that_is_bad_lets_nothing_out(between: bytes, command: Command) -> None:
    bad = b"<domain type='kvm'>\n  <oops>\n</domain>\n"
    ran = command("xml", stdin=MINIMAL + between + bad + MINIMAL)
    assert (ran.code, ran.out) == (1, b"")
    line = 3 + between.count(b"\n")
    assert ran.err.startswith(f"virtrng: line {line}, column 10: Opening and ending tag mismatch")


def test_the_column_counts_from_the_beginning_of_its_line(command: Command) -> None:
    ran = command("xml", stdin=MINIMAL + b"<domain><a></domain>")
    column = len(MINIMAL) + len(b"<domain><a></domain>") + 1
    assert ran.err.startswith(f"virtrng: line 1, column {column}: ")


def test_a_file_that_cannot_be_read(command: Command, tmp_path: Path) -> None:
    ran = command("xml", tmp_path / "none.xml")
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.startswith(f"virtrng: cannot read {tmp_path}/none.xml: No such file or directory")


def test_many_documents_are_each_filtered(command: Command) -> None:
    ran = command("xml", stdin=(MINIMAL + b"\n") * 50)
    assert ran.out.count(b"<rng ") == 50
    assert ran.out.count(b"\n") == 50
