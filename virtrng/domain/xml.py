# SPDX-License-Identifier: LGPL-2.1-or-later
"""Domain XML in and out: nothing that we do not change is lost, no entity is expanded, no network is used."""

from collections.abc import Sequence
from copy import deepcopy
from threading import Lock
from typing import Any

from lxml import etree

from virtrng.errors import MalformedXml

Element = Any  # lxml.etree._Element; Debian's lxml comes without annotations

NAMESPACE = "urn:virtrng:domain:1"
PREFIX = "virtrng"
WISH = f"{{{NAMESPACE}}}guest"
REPLACED = f"{{{NAMESPACE}}}replaced"

_ENTITIES_BYTES_MAX = 100_000_000
# For the time of each parse lxml (4.9) puts a loader of its own into libxml2, and then back what it found. Of
# two at a time one finds the other's and leaves it there for good: in it libvirt crashes where it reads XML
# from a file in this process, as it does for test:///FILE.
_parsing = Lock()
_DECLARATIONS = tuple("<!ENTITY".encode(codec) for codec in ("ascii", "utf-16-le", "utf-16-be"))


def parse(content: bytes) -> Element:
    """Return the <domain> element of a document; raises MalformedXml with line and column."""
    if _may_swell(content):
        raise MalformedXml(1, 1, f"its entities may stand for more than {_ENTITIES_BYTES_MAX} bytes")
    try:
        with _parsing:
            root = etree.fromstring(content, _parser())
    except etree.XMLSyntaxError as error:
        line, column = error.position
        reason = " ".join(error.msg.rsplit(", line ", 1)[0].split()) if error.msg else "no element found"
        raise MalformedXml(line, column, reason) from error
    if root.tag != "domain":
        raise MalformedXml(root.sourceline, 1, f"<{etree.QName(root).localname}> where <domain> is expected")
    return root


def _may_swell(content: bytes) -> bool:
    """Whether entities in attributes, which libxml2 expands whatever it is told, could fill the memory.

    It stops those that contain each other by itself.
    """
    declared = any(declaration in content for declaration in _DECLARATIONS)
    return declared and len(content) * content.count(b"&") > _ENTITIES_BYTES_MAX


def _parser() -> Any:
    return etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, strip_cdata=False
    )


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


def encoding_of(root: Element) -> str:
    """Return the name of the encoding that the document of `root` was read in."""
    return root.getroottree().docinfo.encoding or "UTF-8"


def fragment(element: Element) -> str:
    """Return one element as text, without the namespaces that are declared around it and not used in it."""
    alone = deepcopy(element)
    etree.cleanup_namespaces(alone)
    return text_of(alone)


def compact(element: Element) -> str:
    """Return one element as `fragment` does, without the white space between its children."""
    alone = deepcopy(element)
    for one in alone.iter():
        if len(one) and not (one.text or "").strip():
            one.text = None
        if not (one.tail or "").strip():
            one.tail = None
    return fragment(alone)


def same_tag(one: Element, other: Element) -> bool:
    """Whether both are elements, of one name and with the same attributes and namespaces."""
    return isinstance(one.tag, str) and (one.tag, one.attrib, one.nsmap) == (
        other.tag, other.attrib, other.nsmap,
    )  # fmt: skip


def new(tag: str, attributes: dict[str, str] | None = None, text: str | None = None) -> Element:
    """Make an element."""
    element = etree.Element(tag, attributes or {})
    element.text = text
    return element


def new_wish(attributes: dict[str, str], replaced: Sequence[str] = (), *, bare: bool = False) -> Element:
    """Make the element of our own namespace that holds a guest's wish in <metadata>.

    `replaced` are the elements whose place our device took, as text: libvirt moves every element
    within what it is given as metadata into its namespace (virXMLInjectNamespace), but no text.
    `bare` leaves the namespace out, for libvirt to add it.
    """
    tags = ("guest", "replaced") if bare else (WISH, REPLACED)
    element = etree.Element(tags[0], attributes, nsmap=None if bare else {PREFIX: NAMESPACE})
    for text in replaced:
        etree.SubElement(element, tags[1]).text = text
    return element


def read(text: str) -> Element | None:
    """Return the element that `text` is, None if it is none."""
    try:
        with _parsing:
            return etree.fromstring(text, _parser())
    except (etree.XMLSyntaxError, ValueError):  # an encoding declared in what is no longer bytes
        return None


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
    child.tail = stray or outer


def replace(old: Element, successor: Element) -> None:
    """Put an element in the place of another, indented as that is."""
    indent = _indent_before(old)
    if indent is not None:
        etree.indent(successor)
        _shift(successor, indent)
    successor.tail = old.tail
    old.getparent().replace(old, successor)


def insert(before: Element, child: Element) -> None:
    """Put `child` before an element, indented as that is."""
    indent = _indent_before(before)
    before.addprevious(child)  # and the white space that was there is before it
    child.tail = indent


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
