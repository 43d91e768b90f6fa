# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook's glance at a definition sees what `facts` sees."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from tests.unit.domain.hook_rig import FOREIGN, OURS, UUID, domain
from tests.unit.support import ROOT
from virtrng.config import DomainSettings, Rule
from virtrng.domain import facts, glance, markup, policy, rules, xml
from virtrng.errors import MalformedXml

GOLDEN = sorted((ROOT / "tests" / "data" / "xml").glob("*.xml"))
LIBOSINFO = "http://libosinfo.org/xmlns/libvirt/domain/1.0"


def assert_same(content: bytes) -> None:
    """Both see the same guest."""
    seen, known = glance.at(content), facts.of(xml.parse(content))
    assert (seen.name, seen.uuid, seen.os) == (known.name, known.uuid, known.os)
    assert seen.models == [device.model for device in known.rngs]
    assert seen.virtio is any(device.virtio for device in known.rngs)


def whole(content: bytes) -> list[bytes]:
    """Return the documents in a file that are well-formed and of an encoding that libvirt writes."""
    found = [one.mark + one.content for one in markup.documents(content) if not markup.is_filling(one)]
    return [one for one in found if b"Shift_JIS" not in one and is_domain(one)]


def is_domain(content: bytes) -> bool:
    try:
        xml.parse(content)
    except MalformedXml:
        return False
    return True


def test_every_golden_definition() -> None:
    found = {file.name: whole(file.read_bytes()) for file in GOLDEN}
    assert sum(map(len, found.values())) >= 40
    for documents in found.values():
        for document in documents:
            assert_same(document)


@pytest.mark.parametrize("encoding", ["Shift_JIS", "nonesuch"])
def test_an_encoding_that_libvirt_never_writes(encoding: str) -> None:
    with pytest.raises(MalformedXml):
        glance.at(f"<?xml version='1.0' encoding='{encoding}'?><domain/>".encode())


NOTED = f"<l:libosinfo xmlns:l='{LIBOSINFO}'><l:os id='http://libosinfo.org/linux/x'/></l:libosinfo>"
ODD = {
    "what a hook is given": domain(OURS, FOREIGN),
    "a system": domain().replace(b"<os>", f"<metadata>{NOTED}</metadata><os>".encode()),
    "another's system": b"<domain><metadata><libosinfo><os id='x'/></libosinfo></metadata></domain>",
    "two of each": b"<domain><name>a</name><name>b</name><uuid>1</uuid><uuid>2</uuid>"
    b"<devices><rng/></devices><devices><rng model='virtio'/></devices></domain>",
    "nested": b"<domain><a><name>a</name></a><b><devices><rng/></devices></b><devices><a><rng/></a></devices>"
    b"<devices><rng><rng model='virtio'/></rng></devices></domain>",
    "deep": b"<domain>" + b"<a>" * 200 + b"</a>" * 200 + b"<name>x</name></domain>",
    "a default namespace": b"<domain><name xmlns='urn:x'>a</name><name>b</name></domain>",
    "comments": b"<domain><!--a--><name>a<!--b-->c</name><uuid><?p i?>d</uuid></domain>",
    "a child in a name": b"<domain><name>a<b>c</b>d</name></domain>",
    "CDATA": b"<domain><name><![CDATA[a<b]]>c</name></domain>",
    "references": b"<domain><name>a&amp;&#98;&lt;</name></domain>",
    "an entity": b"<!DOCTYPE domain [<!ENTITY e 'x'>]><domain><name>a&e;b</name><uuid>&e;</uuid></domain>",
    "a file": b"<!DOCTYPE domain [<!ENTITY e SYSTEM '/etc/passwd'>]><domain><name>a&e;b</name></domain>",
    "white space": b"<domain><name>\n a \t</name></domain>",
    "nothing": b"<domain/>",
    "latin-1": b"<?xml version='1.0' encoding='ISO-8859-1'?><domain><name>caf\xe9</name></domain>",
    "utf-16": "<?xml version='1.0' encoding='UTF-16'?><domain><name>\u00e9</name></domain>".encode("utf-16"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_documents(case: str) -> None:
    assert_same(ODD[case])


NAMES = st.sampled_from(["domain", "name", "uuid", "devices", "rng", "metadata", "os", f"{{{LIBOSINFO}}}os"])
TEXTS = st.text("ab <&\u00e9\n", max_size=4)


@st.composite
def elements(draw: st.DrawFn, depth: int = 0) -> xml.Element:
    """Make an element of names that mean something, in places where most mean nothing."""
    element = xml.new(draw(NAMES), {"model": draw(st.sampled_from(["", "virtio", "x"])), "id": draw(TEXTS)})
    element.text = draw(TEXTS)
    for child in draw(st.lists(elements(depth + 1), max_size=3)) if depth < 4 else ():
        child.tail = draw(TEXTS)
        element.append(child)
    return element


@settings(max_examples=scaled(60))
@given(elements())
def test_any_document(root: xml.Element) -> None:
    root.tag = "domain"
    assert_same(xml.text_of(root).encode())


@pytest.mark.parametrize("content", [b"", b"x", b"<domain>", b"<domain></a>", b"<domain/><domain/>", b"\xff"])
def test_what_is_no_document(content: bytes) -> None:
    with pytest.raises(MalformedXml):
        glance.at(content)
    with pytest.raises(MalformedXml):
        xml.parse(content)


@pytest.mark.parametrize(
    "content", [b"\n<network/>", b"<x:domain xmlns:x='urn:x'/>", b"<domain xmlns='urn:x'/>"]
)
def test_what_is_no_domain(content: bytes) -> None:
    said = []
    for read in (glance.at, xml.parse):
        with pytest.raises(MalformedXml, match="where <domain> is expected") as caught:
            read(content)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_nothing_is_expanded() -> None:
    laughs = "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 12))
    content = (
        f"<!DOCTYPE domain [<!ENTITY e0 'ha'>{laughs}]><domain><name>&e11;</name><uuid>{UUID}</uuid></domain>"
    )
    seen = glance.at(content.encode())
    assert (seen.name, seen.uuid) == ("", UUID)


def test_a_start_takes_none_of_the_large_modules() -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); import virtrng.domain.hook; print(*sys.modules)"
    command = ["/usr/bin/python3", "-I", "-S", "-c", script, str(ROOT)]
    loaded = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    assert "tomllib" in loaded
    large = {"lxml", "lxml.etree", "json", "uuid", "platform", "tempfile", "subprocess", "virtrng.status"}
    assert not large & set(loaded)


RULES = st.builds(
    Rule,
    match=st.none() | st.sampled_from(["web", "w*", "WEB", UUID, UUID.upper()]),
    os=st.none() | st.sampled_from(["*linux*", "*", ""]),
    require=st.none() | st.sampled_from(["off", "warn", "refuse"]),
)


@settings(max_examples=scaled(60))
@given(st.lists(RULES, max_size=4), st.sampled_from(["web", "db"]), st.sampled_from(["", NOTED]))
def test_the_rules_are_those_of_policy(found: list[Rule], name: str, noted: str) -> None:
    content = domain(name=name).replace(b"<os>", f"<metadata>{noted}</metadata><os>".encode())
    host, seen = DomainSettings(rules=tuple(found)), glance.at(content)
    expected = policy.requirement(facts.of(xml.parse(content)), host)
    assert rules.requirement(seen.name, seen.uuid, seen.os, host) == expected
