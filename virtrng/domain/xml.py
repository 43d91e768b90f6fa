# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domain XML in and out: nothing that we do not change is lost, no entity is expanded, no network is used."""

from typing import Any

from lxml import etree

from virtrng.errors import MalformedXml

Element = Any  # lxml.etree._Element; Debian's lxml comes without annotations

NAMESPACE = "urn:virtrng:domain:1"
PREFIX = "virtrng"
WISH = f"{{{NAMESPACE}}}guest"


def parse(content: bytes) -> Element:
    """Return the <domain> element of a document; raises MalformedXml with line and column."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        line, column = error.position
        reason = " ".join(error.msg.rsplit(", line ", 1)[0].split()) if error.msg else "no element found"
        raise MalformedXml(line, column, reason) from error
    if root.tag != "domain":
        raise MalformedXml(root.sourceline, 1, f"<{etree.QName(root).localname}> where <domain> is expected")
    return root


def serialise(root: Element, original: bytes = b"") -> bytes:
    """Return the whole document of `root`, in its own encoding and with the comments around it.

    It has an XML declaration where `original`, the text it was parsed from, had one.
    """
    document = root.getroottree()
    declared = b"<?xml" in original[:16].replace(b"\0", b"")  # in UTF-16 each letter has a zero beside it
    encoding = document.docinfo.encoding or "UTF-8"
    return etree.tostring(document, encoding=encoding, xml_declaration=declared)  # type: ignore[no-any-return]


def text_of(element: Element) -> str:
    """Return one element as text, without what follows it."""
    return etree.tostring(element, encoding="unicode", with_tail=False)  # type: ignore[no-any-return]


def new(tag: str, attributes: dict[str, str] | None = None, text: str | None = None) -> Element:
    """Make an element."""
    element = etree.Element(tag, attributes or {})
    element.text = text
    return element


def new_wish(attributes: dict[str, str]) -> Element:
    """Make the element of our own namespace that holds a guest's wish in <metadata>."""
    return etree.Element(WISH, attributes, nsmap={PREFIX: NAMESPACE})


def append(parent: Element, child: Element) -> None:
    """Append `child` as the last element, indented as its siblings are."""
    siblings = len(parent)
    outer = _indent_before(parent)
    inner = _indent_before(parent[0]) if siblings else (outer + "  " if outer is not None else None)
    stray = (parent[-1].tail if siblings else parent.text) or ""
    parent.append(child)
    if inner is None or stray.strip():
        return
    if siblings:
        parent[-2].tail = inner
    else:
        parent.text = inner
    etree.indent(child, level=0)
    _shift(child, inner)
    child.tail = outer


def _indent_before(element: Element) -> str | None:
    """Return the white space from the line break to `element`, or None where there is none."""
    before = element.getprevious()
    parent = element.getparent()
    text = before.tail if before is not None else parent.text if parent is not None else "\n"
    return text if text and text.isspace() and "\n" in text else None


def _shift(element: Element, indent: str) -> None:
    """Deepen the white space inside `element`, which was indented as a root, to stand at `indent`."""
    for inside in element.iter():
        if inside.text and inside.text.isspace():
            inside.text = indent + inside.text.removeprefix("\n")
        if inside is not element and inside.tail and inside.tail.isspace():
            inside.tail = indent + inside.tail.removeprefix("\n")


def remove(element: Element) -> None:
    """Take `element` out, with the white space that belongs to it; the closing tag's stays."""
    parent, before = element.getparent(), element.getprevious()
    ahead, after = (before.tail if before is not None else parent.text) or "", element.tail or ""
    if (ahead + after).strip():  # words among the white space
        kept: str | None = ahead + after
    elif element.getnext() is None:  # the last one: what preceded it goes, what follows closes the parent
        kept = after if before is not None else None
    else:
        kept = ahead
    parent.remove(element)
    if before is not None:
        before.tail = kept
    else:
        parent.text = kept


def pretty(element: Element) -> str:
    """Return one element as indented text."""
    etree.indent(element)
    return text_of(element)
