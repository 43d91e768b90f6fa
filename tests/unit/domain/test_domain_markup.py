# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where documents and their elements stand in the text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.scale import scaled
from virtrng.domain import markup
from virtrng.domain.markup import Document, Node


def cut(content: bytes) -> list[tuple[bytes, bytes]]:
    return [(one.before, one.content) for one in markup.documents(content)]


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        (b"", [(b"", b"")]),
        (b"<a/>", [(b"", b"<a/>")]),
        (b"<a/><b></b>", [(b"", b"<a/>"), (b"", b"<b></b>")]),
        (b"\n<a><a/></a>\n \n<b/>\n", [(b"\n", b"<a><a/></a>"), (b"\n \n", b"<b/>"), (b"\n", b"")]),
        (b"<a/><!-- <b/> --><c/>", [(b"", b"<a/>"), (b"", b"<!-- <b/> --><c/>")]),
        (b"<a/><!-- b --><?xml version='1.0'?><c/>",
         [(b"", b"<a/>"), (b"<!-- b -->", b"<?xml version='1.0'?><c/>")]),
        (b"<?xml version='1.0'?><!-- b --><c/>", [(b"", b"<?xml version='1.0'?><!-- b --><c/>")]),
        (b"<a/>\n\xef\xbb\xbf<?xml version='1.0'?><c/>",
         [(b"", b"<a/>"), (b"\n", b"\xef\xbb\xbf<?xml version='1.0'?><c/>")]),
        (b"<a/><?xml-stylesheet?><c/>", [(b"", b"<a/>"), (b"", b"<?xml-stylesheet?><c/>")]),
        (b"<a b='</a>' c=\"/>\"><![CDATA[</a>]]><!--</a>--><?x </a>?></a><b/>",
         [(b"", b"<a b='</a>' c=\"/>\"><![CDATA[</a>]]><!--</a>--><?x </a>?></a>"), (b"", b"<b/>")]),
        (b"<!DOCTYPE a [<!-- ]> ' --><!ENTITY b ']>\"'><?c ]>?>]><a/><b/>",
         [(b"", b"<!DOCTYPE a [<!-- ]> ' --><!ENTITY b ']>\"'><?c ]>?>]><a/>"), (b"", b"<b/>")]),
        (b"<!DOCTYPE a SYSTEM '[>'><a/><b/>", [(b"", b"<!DOCTYPE a SYSTEM '[>'><a/>"), (b"", b"<b/>")]),
        ("\ufeff<a/>\n<b/>".encode("utf-16-le"),
         [(b"", "\ufeff<a/>".encode("utf-16-le")), (b"\n\0", "<b/>".encode("utf-16-le"))]),
        (b"<a/>\n" + "<b/>\n".encode("utf-16") + b"<c/>",
         [(b"", b"<a/>"), (b"\n", "<b/>".encode("utf-16")), (b"\n\0", b"<c/>")]),
    ],
)  # fmt: skip
def test_documents_are_cut_apart(content: bytes, pieces: list[tuple[bytes, bytes]]) -> None:
    assert cut(content) == pieces


@pytest.mark.parametrize(
    ("text", "filling"),
    [
        (" \n\t", True),
        ("<!-- a --> <?b?>\n", True),
        ("\ufeff", True),
        ("x", False),
        ("<!-- a --> x <?b?>", False),
        ("<!-- ", False),
        ("<a>", False),
        ("<!DOCTYPE a>", False),
        ("&a;", False),
        ("\N{NO-BREAK SPACE}", False),
    ],
)
def test_what_may_follow_the_last_one(text: str, *, filling: bool) -> None:
    _, last = markup.documents(f"<a/>{text}".encode())
    assert markup.is_filling(last) is filling


def test_a_document_is_no_filling() -> None:
    (only,) = markup.documents(b"<a/>")
    assert not markup.is_filling(only)


def test_places_are_counted_from_the_top() -> None:
    content = b"<a/>\n\n  <b>\n</b><c/>\n" + "\n <d/>".encode("utf-16")
    places = {one.content[:4]: (one.line, one.column) for one in markup.documents(content)}
    assert places[b"<a/>"] == (0, 0)
    assert places[b"<b>\n"] == (2, 2)
    assert places[b"<c/>"] == (3, 4)


@pytest.mark.parametrize(
    "codec", ["utf-8", "latin-1", "utf-16", "utf-16-be", "utf-32", "shift_jis", "gb18030"]
)
def test_offsets_are_those_of_bytes(codec: str) -> None:
    text = "<a><b>\u00a7</b><c/></a>" if codec != "utf-32" else "<a><b>\U0001d518</b><c/></a>"
    (document,) = markup.documents(text.encode(codec))
    assert document.root
    second = document.root.children[1]
    start, end = document.offset(second.start), document.offset(second.end)
    before, after = document.content[:start], document.content[end:]
    assert before.decode(codec) == text.partition("<c/>")[0]
    letters = document.codec if not document.eight_bits else codec
    assert (document.content[start:end].decode(letters), after.decode(letters)) == ("<c/>", "</a>")


def outline(document: Document) -> object:
    def of(node: Node) -> object:
        return document.text[node.start : node.end], document.text[node.inner : node.close], [
            of(child) for child in node.children
        ]  # fmt: skip

    assert document.root
    return of(document.root)


def test_children_are_those_of_lxml() -> None:
    (document,) = markup.documents(
        b"<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;&lt;<!--c--><?p?><b><c><d/></c>t</b></a>"
    )
    assert outline(document) == (
        "<a>&e;&lt;<!--c--><?p?><b><c><d/></c>t</b></a>",
        "&e;&lt;<!--c--><?p?><b><c><d/></c>t</b>",
        [
            ("&e;", "", []),
            ("<!--c-->", "", []),
            ("<?p?>", "", []),
            ("<b><c><d/></c>t</b>", "<c><d/></c>t", [("<c><d/></c>", "<d/>", [])]),
        ],
    )


@pytest.mark.parametrize(
    ("text", "ends"), [("a\nb\r\n", "\n"), ("a\r\nb\n", "\r\n"), ("a\rb", "\r"), ("", "\n")]
)
def test_line_ends(text: str, ends: str) -> None:
    assert markup.newline(text) == ends


def test_quotes() -> None:
    fragment = '<a b="1" c="it\'s"><d e="2"/>f="3"</a>'
    assert markup.requoted(fragment, "<x y='z'>") == "<a b='1' c=\"it's\"><d e='2'/>f=\"3\"</a>"
    for like in ('<x y="z">', "<x y='z' w=\"v\">", "<x>"):
        assert markup.requoted(fragment, like) == fragment


NAMES = st.sampled_from(["a", "b:c", "domain", "d-1", "e.f"])
VALUES = st.text(st.sampled_from("ab>/='\" \n"), max_size=5)
FILLING = st.sampled_from(
    ["<!-- - > </a> -->", "<?p <a> ?>", "<![CDATA[<a>]]x]]>", "text", "&lt;", "\r\n\t", "", "\U0001d518"]
)


@st.composite
def elements(draw: st.DrawFn, depth: int = 4) -> str:
    name = draw(NAMES)
    attributes = ""
    for index, value in enumerate(draw(st.lists(VALUES, max_size=2))):
        quote = "'" if '"' in value else '"'
        space, around = draw(st.sampled_from([" ", "\n", "\t "])), draw(st.sampled_from(["", " "]))
        attributes += f"{space}x{index}{around}={around}{quote}{value.replace(quote, '')}{quote}"
    inner = FILLING if depth == 0 else FILLING | elements(depth=depth - 1)
    inside = "".join(draw(st.lists(inner, max_size=4)))
    tail = draw(st.sampled_from(["", " ", "\n"]))
    if not inside and draw(st.booleans()):
        return f"<{name}{attributes}{tail}/>"
    return f"<{name}{attributes}{tail}>{inside}</{name}{tail}>"


@settings(derandomize=True, max_examples=scaled(60))
@given(
    st.lists(elements(), min_size=1, max_size=4),
    st.sampled_from(["", "\n", "\r\n\r\n", "<!-- between --> "]),
    st.sampled_from(["utf-8", "utf-16", "utf-16-be"]),
)
def test_any_documents_are_cut_where_the_parser_ends(documents: list[str], between: str, codec: str) -> None:
    content = between.join(documents).encode(codec)
    found = list(markup.documents(content))
    assert b"".join(one.before + one.content for one in found) == content
    assert len([one for one in found if one.root]) == len(documents)
    for one, text in zip(found, documents, strict=False):
        letters = "utf-8" if one.eight_bits else one.codec
        assert one.content.decode(letters).endswith(text)
        assert one.root
        _same_children(etree.fromstring(text.replace("b:c", "bc").encode()), one.root)


def _same_children(element: etree._Element, node: Node, depth: int = 0) -> None:
    if depth < 2:
        assert len(element) == len(node.children)
        for child, place in zip(element, node.children, strict=True):
            _same_children(child, place, depth + 1)


@settings(derandomize=True, max_examples=scaled(100))
@given(
    st.binary(max_size=60)
    | st.text(st.sampled_from("<>!-?[]&;/'\" adx\n\ufeff"), max_size=60).map(str.encode)
)
def test_no_bytes_are_lost_or_raise(content: bytes) -> None:
    assert b"".join(one.before + one.content for one in markup.documents(content)) == content
