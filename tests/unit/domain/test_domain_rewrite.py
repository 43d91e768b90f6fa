# SPDX-License-Identifier: LGPL-2.1-or-later
"""A changed document: what was not changed is there byte for byte, in its own encoding and layout."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from tests.unit.support import difference
from virtrng.config import DomainSettings, Rate
from virtrng.domain import facts, markup, transform, xml
from virtrng.domain.policy import Request
from virtrng.domain.rewrite import Source


def source_of(content: bytes) -> Source:
    return Source(next(markup.documents(content)))


def changed(content: bytes, change: Callable[[xml.Element], object], *, by_parser: bool = False) -> bytes:
    """Change a document; only where it is expected may the parser write it."""
    source = source_of(content)
    change(source.root)
    with pytest.MonkeyPatch.context() as patch:
        if not by_parser:
            patch.setattr(xml, "serialise", None)
        return source.text()


def add(root: xml.Element) -> None:
    xml.append(root.find("devices"), xml.new("new", {"a": "b"}))


ODD = "<domain  a = '1'\n b='2' ><x>&#x41;&lt;<![CDATA[<&]]></x >{}<y/></domain\n>"


def test_nothing_changed_is_nothing_changed() -> None:
    content = ODD.format("<devices><a /></devices>").encode()
    assert changed(content, lambda root: None) == content


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<devices/>", "<devices><new a='b'/></devices>"),
        ("<devices />", "<devices><new a='b'/></devices>"),
        ("<devices\n  x='/>' />", "<devices\n  x='/>'><new a='b'/></devices>"),
        ("<devices\r\n x='é' />", "<devices\r\n x='é'><new a='b'/></devices>"),
        ("<devices></devices >", "<devices><new a='b'/></devices >"),
        ("<devices><a /></devices>", "<devices><a /><new a='b'/></devices>"),
        ("<devices>\n  <a />\n </devices>", "<devices>\n  <a />\n  <new a='b'/>\n </devices>"),
        ("\n <devices>\r\n  <a />\r\n </devices>", "\n <devices>\r\n  <a />\n  <new a='b'/>\r\n </devices>"),
        ("\n <devices>\n  <a /> <!-- b -->\n </devices>",
         "\n <devices>\n  <a /> <!-- b -->\n  <new a='b'/>\n </devices>"),
        ("<devices><a />&#32;words&#10;</devices>", "<devices><a />&#32;words&#10;<new a='b'/></devices>"),
        ("<devices><?p?><!----></devices>", "<devices><?p?><!----><new a='b'/></devices>"),
        ("<devices><![CDATA[ ]]></devices>", "<devices><![CDATA[ ]]><new a='b'/></devices>"),
    ],
)  # fmt: skip
def test_an_element_is_put_where_it_belongs(before: str, after: str) -> None:
    for codec in ("utf-8", "utf-16-le"):
        content = f"\ufeff{ODD.format(before)}".encode(codec)
        assert changed(content, add).decode(codec) == f"\ufeff{ODD.format(after)}"


def test_the_replaced_and_the_removed() -> None:
    content = ODD.format("<devices>\r\n<a /> <b  /> words <c></c ><d/>\r\n</devices>").encode()

    def change(root: xml.Element) -> None:
        devices = root.find("devices")
        xml.replace(devices[0], xml.new("r"))
        xml.remove(devices[1])
        devices[1].set("k", "v")

    expected = ODD.format("<devices>\r\n<r/>  words <c k='v'/><d/>\r\n</devices>").encode()
    assert changed(content, change) == expected


@pytest.mark.parametrize(
    ("codec", "letter"),
    [("utf-8", "é"), ("utf-16", "\U0001d518"), ("utf-16-be", "é"), ("iso-8859-15", "€"), ("koi8-r", "Я"),
     ("shift_jis", "ソ"), ("euc-jp", "表"), ("gb18030", "中"), ("big5", "功"), ("cp1252", "…"),
     ("cp866", "\u0430")],
)  # fmt: skip
def test_encodings(codec: str, letter: str) -> None:
    name = "windows-1252" if codec == "cp1252" else codec.removesuffix("-be")
    mark = "\ufeff" if codec == "utf-16-be" else ""
    text = f"<?xml version='1.0' encoding='{name}'?>\r\n"
    text += f"<domain  x='{letter}'><devices><a b='{letter}'/></devices></domain>"
    content = (mark + text).encode(codec)
    rng = xml.new("rng", text=f"{letter}&\n")
    found = changed(content, lambda root: root.find("devices").append(rng))
    inserted = f"<rng>{letter}&amp;\r\n</rng></devices>"
    assert found == (mark + text.replace("</devices>", inserted)).encode(codec)


def test_what_the_encoding_lacks_is_a_reference() -> None:
    content = b"<?xml version='1.0' encoding='us-ascii'?><domain><devices/></domain>"
    found = changed(content, lambda root: root.find("devices").append(xml.new("a", {"b": "é"}, "中")))
    assert b"<a b='&#233;'>&#20013;</a>" in found or b'<a b="&#233;">&#20013;</a>' in found


def test_namespaces_are_not_declared_again() -> None:
    content = b"<domain xmlns:q='urn:q'><devices/><q:c xmlns='urn:d'><e/></q:c></domain>"
    found = changed(content, add)
    assert found.count(b"xmlns") == 2


@pytest.mark.parametrize("codec", ["iso-2022-jp", "utf-7"])
def test_where_ascii_means_something_else_the_parser_writes(codec: str) -> None:
    # In these the bytes of letters are those of tags.
    text = f"<?xml version='1.0' encoding='{codec}'?><domain><t>ソ~表</t><devices/></domain>"
    content = text.encode(codec)
    found = changed(content, add, by_parser=True)
    assert xml.parse(found).find("devices/new") is not None
    assert xml.parse(found).findtext("t") == "ソ~表"


def test_a_text_that_does_not_come_out_as_the_tree_is_written_by_the_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(markup, "requoted", lambda fragment, like: "<wrong/>")
    found = changed(b"<domain a='1'><devices/></domain>", add, by_parser=True)
    assert found == b'<domain a="1"><devices><new a="b"/></devices></domain>'


# --- any definition


SPACE = st.sampled_from(["", " ", "\n", "\n  ", "\r\n\t", "\n\n"])
EXTRA = st.sampled_from(
    ["", "<!-- <rng> -->", "<?pi </devices>?>", "&#10;", "&amp;", "<![CDATA[<rng/>]]>", "é"]
)
DEVICES = st.sampled_from(
    ["<disk type='file'/>", "<input type = \"tablet\"\n bus='usb' />", "<rng><backend model='random'/></rng>",
     "<video><model type='virtio'/></video >", "<controller type='pci' index='0' model='pcie-root'/>",
     "<sound model='ich9'><address type='pci' bus='0x00' slot='0x19'/></sound>"]
)  # fmt: skip
FOREIGN = st.sampled_from(
    ["<rng model='virtio'><backend model='builtin'/></rng>",
     "<rng  model = \"virtio-transitional\">\n <rate bytes='9'/>\n <backend\n model='egd'/></rng>",
     "<rng model='virtio'><!-- c --><backend model='random'/><alias name='ua-x'/><driver iommu='on'/></rng>"]
)  # fmt: skip
METADATA = st.sampled_from(
    ["", "<metadata/>", "<metadata ><a:b xmlns:a='urn:a'><a:c/></a:b></metadata>",
     "<metadata>\n <v:guest xmlns:v='urn:virtrng:domain:1' device='on'/>\n</metadata>"]
)  # fmt: skip


@st.composite
def definitions(draw: st.DrawFn) -> str:
    def around(part: str) -> str:
        return draw(SPACE) + draw(EXTRA) + draw(SPACE) + part

    devices = "".join(map(around, draw(st.lists(DEVICES | FOREIGN, max_size=5)))) + around("")
    body = [
        draw(st.sampled_from([f"<devices>{devices}</devices >", "<devices/>", "<devices  />", ""])),
        "<os><type  arch='x86_64' machine=\"q35\">hvm</type></os>",
        "<name >a&#98;</name>",
        draw(METADATA),
    ]
    parts = "".join(map(around, draw(st.permutations(body)))) + around("")
    root = draw(
        st.sampled_from(["domain type='kvm'", 'domain\ttype="qemu" ', "domain xmlns:q='urn:q' type='kvm'"])
    )
    return f"<{root}>{parts}</domain>"


REQUESTS = st.builds(
    Request,
    source=st.sampled_from([None, "/dev/urandom"]),
    rate=st.sampled_from([None, Rate(512, 250)]),
    model=st.sampled_from([None, "virtio-transitional"]),
    replace=st.booleans(),
)


def filtered(content: bytes, request: Request) -> bytes:
    source = source_of(content)
    if transform.filtered(source.root, DomainSettings(), request):
        return content
    with pytest.MonkeyPatch.context() as patch:
        if b"CDATA" not in content.replace(b"\0", b""):  # which a parser cannot put beside other words
            patch.setattr(xml, "serialise", None)
        return source.text()


@settings(derandomize=True, max_examples=scaled(200))
@given(definitions(), REQUESTS, st.sampled_from(["utf-8", "utf-16"]))
def test_filtering_twice_is_filtering_once(text: str, request: Request, codec: str) -> None:
    content = text.encode(codec)
    once = filtered(content, request)
    assert filtered(once, request) == once
    assert filtered(once, Request()) == once
    after = facts.of(xml.parse(once))
    assert bool(after.ours) or after.foreigners
    if request.replace:
        assert len([device for device in after.rngs if device.virtio]) == 1


@settings(derandomize=True, max_examples=scaled(200))
@given(definitions(), st.sampled_from(["utf-8", "utf-16-le"]))
def test_everything_but_the_device_is_as_it_was(text: str, codec: str) -> None:
    once = filtered(text.encode(codec), Request()).decode(codec)
    gone, come = difference(text, once)
    assert gone.strip() in ("", "/")  # <devices/> has become <devices> and </devices>
    assert come.count("ua-virtrng0") == (once != text)
    assert len(come) < 450


@settings(derandomize=True, max_examples=scaled(150))
@given(definitions())
def test_what_is_kept_is_what_was_replaced(text: str) -> None:
    before = xml.parse(text.encode())
    foreign = [one for one in before.iterfind("devices/rng") if one.get("model")]
    after = xml.parse(filtered(text.encode(), Request(replace=True)))
    assert [xml.compact(one) for one in transform.kept(after)] == [xml.compact(one) for one in foreign]
