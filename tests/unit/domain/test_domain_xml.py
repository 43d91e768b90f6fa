# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domain XML in and out: what goes in comes out, and what is added is indented as the rest."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.scale import scaled
from virtrng.domain import xml
from virtrng.errors import MalformedXml


def child() -> xml.Element:
    element = xml.new("rng", {"model": "virtio"})
    element.append(xml.new("rate", {"bytes": "1"}))
    return element


def appended(text: str) -> str:
    root = xml.parse(text.encode())
    xml.append(root.find("devices"), child())
    return xml.serialise(root).decode()


RNG = '<rng model="virtio">{0}  <rate bytes="1"/>{0}</rng>'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<devices/>", '<devices><rng model="virtio"><rate bytes="1"/></rng></devices>'),
        ("<devices><a/></devices>", '<devices><a/><rng model="virtio"><rate bytes="1"/></rng></devices>'),
        ("\n  <devices/>\n", "\n  <devices>\n    RNG4\n  </devices>\n"),
        ("\n  <devices>\n  </devices>\n", "\n  <devices>\n    RNG4\n  </devices>\n"),
        ("\n  <devices>\n    <a/>\n  </devices>\n", "\n  <devices>\n    <a/>\n    RNG4\n  </devices>\n"),
        ("\n <devices>\n        <a/>\n <!-- c -->\n </devices>\n",
         "\n <devices>\n        <a/>\n <!-- c -->\n        RNG8\n </devices>\n"),
    ],
)  # fmt: skip
def test_what_is_added_is_indented_as_its_siblings(before: str, after: str) -> None:
    for indent in (4, 8):
        after = after.replace(f"RNG{indent}", RNG.format("\n" + " " * indent))
    assert appended(f"<domain>{before}</domain>") == f"<domain>{after}</domain>"


LAYOUTS = [
    "<domain><devices><a/></devices></domain>",
    "<domain>\n  <devices>\n    <a/>\n    <b>\n      <c/>\n    </b>\n  </devices>\n</domain>",
    "<domain>\n<devices>\n<a/>\n</devices>\n</domain>",
    "<domain>\n\t<devices>\n\t\t<a/>\n\t\t<!-- last -->\n\t</devices>\n</domain>",
    "<domain><devices>\n<a/></devices></domain>",
    "<domain>\n  <devices/>\n</domain>",
    "<domain><devices/></domain>",
]


@pytest.mark.parametrize("text", LAYOUTS)
def test_what_was_added_is_removed_without_a_trace(text: str) -> None:
    root = xml.parse(text.encode())
    element = child()
    xml.append(root.find("devices"), element)
    xml.remove(element)
    assert xml.serialise(root).decode() == text


@pytest.mark.parametrize("index", [0, 1, 2])
def test_removing_leaves_the_others_as_they_stand(index: int) -> None:
    lines = ["<domain>", "  <devices>", "    <a/>", "    <b/>", "    <c/>", "  </devices>", "</domain>"]
    root = xml.parse("\n".join(lines).encode())
    xml.remove(root.find("devices")[index])
    del lines[2 + index]
    assert xml.serialise(root).decode() == "\n".join(lines)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "us-ascii", ""])
def test_encodings_survive(encoding: str) -> None:
    declaration = f'<?xml version="1.0" encoding="{encoding}"?>\n' if encoding else ""
    letter = "&#233;" if encoding == "us-ascii" else "\u00e9"
    content = f"{declaration}<domain><title>caf{letter}</title></domain>".encode(encoding or "utf-8")
    again = xml.serialise(xml.parse(content), content)
    assert xml.parse(again).findtext("title") == "caf\u00e9"
    assert (b"<?xml" in again.replace(b"\0", b"")) is bool(encoding)
    assert xml.serialise(xml.parse(again), again) == again


def test_what_is_around_the_root_is_kept() -> None:
    content = b"<!-- a --><?b c?><domain/><!-- d --><?e?>"
    assert xml.serialise(xml.parse(content), content) == content


def test_text_of_an_element_has_no_tail() -> None:
    root = xml.parse(b"<domain>\n <a/>tail</domain>")
    assert xml.text_of(root[0]) == "<a/>"
    assert xml.pretty(xml.parse(b"<domain><a><b/></a></domain>")) == (
        "<domain>\n  <a>\n    <b/>\n  </a>\n</domain>"
    )


def test_ours_in_the_metadata_is_in_our_namespace() -> None:
    element = xml.new_wish({"device": "on"})
    assert xml.text_of(element) == '<virtrng:guest xmlns:virtrng="urn:virtrng:domain:1" device="on"/>'


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        (b"", 1, "Document is empty"),
        (b"\n\n<domain", 3, "Couldn't find end of Start Tag domain line 3"),
        (b"<a/>", 1, "<a> where <domain> is expected"),
        (b"<!-- c -->\n<domainsnapshot/>", 2, "<domainsnapshot> where <domain> is expected"),
        (b"<?xml version='1.0' encoding='nonesuch'?><domain/>", 1, "Unsupported encoding nonesuch"),
    ],
)
def test_malformed(content: bytes, line: int, reason: str) -> None:
    with pytest.raises(MalformedXml) as caught:
        xml.parse(content)
    assert (caught.value.line, caught.value.reason) == (line, reason)
    assert str(caught.value).startswith(f"line {line}, column ")


def test_nothing_is_fetched_and_nothing_expanded() -> None:
    content = (
        b"<!DOCTYPE domain SYSTEM 'http://127.0.0.1:9/domain.dtd' ["
        b"<!ENTITY f SYSTEM 'file:///etc/hostname'><!ENTITY i 'inside'>]>"
        b"<domain><title>&f;&i;</title></domain>"
    )
    again = xml.serialise(xml.parse(content), content)
    assert b"<title>&f;&i;</title>" in again


def test_entities_in_attributes_are_bounded() -> None:
    few = b"<!DOCTYPE domain [<!ENTITY a 'inside'>]><domain type='&a;'/>"
    assert xml.parse(few).get("type") == "inside"
    for codec in ("utf-8", "utf-16"):
        many = f"<!DOCTYPE d [<!ENTITY a '{'a' * 100_000}'>]><domain x='{'&a;' * 1000}'/>".encode(codec)
        with pytest.raises(MalformedXml, match="its entities may stand for more than 100000000 bytes"):
            xml.parse(many)


def test_cdata_stays() -> None:
    content = b"<domain><title><![CDATA[<&>]]></title></domain>"
    assert xml.serialise(xml.parse(content), content) == content
    assert xml.parse(content).findtext("title") == "<&>"


def test_putting_one_before_another_and_in_its_place() -> None:
    root = xml.parse(b"<domain>\n  <a/>\n  <b/> words\n</domain>")
    xml.insert(root[0], xml.new("c"))
    element = xml.new("d")
    element.append(xml.new("e"))
    xml.replace(root[2], element)
    assert xml.text_of(root) == "<domain>\n  <c/>\n  <a/>\n  <d>\n    <e/>\n  </d> words\n</domain>"


def test_a_fragment_declares_what_it_uses() -> None:
    root = xml.parse(
        b"<domain xmlns:a='urn:a' xmlns:b='urn:b'>\n <x>\n  <a:y> </a:y>\n  <z/> t </x> </domain>"
    )
    assert xml.fragment(root[0]) == '<x xmlns:a="urn:a">\n  <a:y> </a:y>\n  <z/> t </x>'
    assert xml.compact(root[0]) == '<x xmlns:a="urn:a"><a:y> </a:y><z/> t </x>'
    assert xml.text_of(root).count("xmlns") == 2


def test_tags_are_the_same_by_name_attributes_and_namespaces() -> None:
    tags = ["<a/>", "<b/>", "<a x='1'/>", "<n:a xmlns:n='urn:n'/>", "<a xmlns:n='urn:n'/>", "<!--a-->"]
    root = xml.parse(f"<domain>{''.join(tags)}</domain>".encode())
    again = xml.parse(f"<domain>{''.join(tags)}</domain>".encode())
    same = [[xml.same_tag(one, other) for other in again] for one in root]
    assert same == [[i == j != 5 for j in range(6)] for i in range(6)]


def test_text_that_is_no_element_is_none() -> None:
    found = xml.read("<rng a='1'/>")
    assert found is not None
    assert found.get("a") == "1"
    for text in ("", "words", "<a", "<?xml version='1.0' encoding='utf-8'?><a/>", "<a/><b/>"):
        assert xml.read(text) is None


TREES = st.recursive(
    st.sampled_from(["<a/>", "<!-- c -->", "<b x='1'/>", "text", "<?p i?>", "\n  ", ""]),
    lambda inner: st.lists(inner, max_size=4).map(lambda parts: f"<n>{''.join(parts)}</n>"),
    max_leaves=12,
)


@settings(derandomize=True, max_examples=scaled(80))
@given(st.lists(TREES, max_size=5))
def test_adding_and_removing_loses_nothing_that_was_there(parts: list[str]) -> None:
    root = xml.parse(f"<domain><devices>{''.join(parts)}</devices></domain>".encode())
    devices = root.find("devices")
    before = [etree.tostring(one, with_tail=False) for one in devices]
    texts = re.sub(r"\s", "", "".join(devices.itertext()))
    element = child()
    xml.append(devices, element)
    assert [etree.tostring(one, with_tail=False) for one in devices[:-1]] == before
    xml.remove(element)
    assert [etree.tostring(one, with_tail=False) for one in devices] == before
    assert re.sub(r"\s", "", "".join(devices.itertext())) == texts


@settings(derandomize=True, max_examples=scaled(200))
@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_no_bytes_raise_anything_else(content: bytes) -> None:
    for text in (content, b"<domain>" + content + b"</domain>"):
        try:
            xml.parse(text)
        except MalformedXml as error:
            assert "\n" not in str(error)  # noqa: PT017  one line each, whatever it is
