# SPDX-License-Identifier: LGPL-2.1-or-later
"""A document that is changed in its text: but for what was changed, every byte is as it was.

A parser forgets quotes, line ends, the white space within tags and how letters were written.
So the tree is changed, and what differs in it is then put into the text at its place.
"""

import codecs
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from virtrng.domain import markup, xml
from virtrng.domain.markup import Document, Node
from virtrng.errors import MalformedXml

_Edit = tuple[int, int, bytes]
"""Where it begins and ends in the text, and what is to stand there."""
_Gap = tuple[str, int, int]
"""What is between two children, as the tree has it, and where it stands in the text."""


class Source:
    """A document and its tree `root`, which may be changed among the root's children and among theirs."""

    def __init__(self, document: Document) -> None:
        """Parse; raises MalformedXml, places counted from the top of the document."""
        self._document = document
        self.root = xml.parse(document.mark + document.content)
        # lxml gives the same object for the same element only as long as that is held.
        self._held = {self.root: list(self.root)} | {child: list(child) for child in self.root}

    def text(self) -> bytes:
        """Return the document with the changes of its tree, read again to see that it has them.

        Where it has not (in some encoding the bytes of ASCII mean something else), the parser
        writes it, with white space and quotes of its own.
        """
        try:
            content = self._rewritten()
            again = xml.parse(self._document.mark + content)
        except (MalformedXml, _MisfitError):
            again = None
        if again is None or xml.text_of(again) != xml.text_of(self.root):
            return xml.serialise(self.root, self._document.content)
        return content

    def _rewritten(self) -> bytes:
        document = self._document
        if document.root is None:
            raise _MisfitError
        was = xml.parse(document.mark + document.content)
        pen = _Pen(document, xml.encoding_of(was))
        parts: list[bytes] = []
        last = 0
        for start, end, content in _Comparison(self._held, pen).of(self.root, was, document.root):
            parts += [pen.original(last, start), content]
            last = end
        return b"".join([*parts, pen.original(last, len(document.text))])


class _MisfitError(Exception):
    """The text and the tree do not tell of the same elements."""


class _Pen:
    """Writes as the document is written: its encoding, line ends and quotes."""

    def __init__(self, document: Document, encoding: str) -> None:
        self._document = document
        self._codec = document.codec if not document.eight_bits else _known(encoding)
        self._newline = markup.newline(document.text)
        self._tag = document.text[document.root.start : document.root.inner] if document.root else ""

    def original(self, start: int, end: int) -> bytes:
        """Return what stands there."""
        return self._document.content[self._document.offset(start) : self._document.offset(end)]

    def tag(self, node: Node) -> str:
        """Return the tag of an element that is one tag."""
        return self._document.text[node.start : node.end]

    def text(self, text: str) -> bytes:
        """Write white space and words between elements."""
        return self.markup(escape(text))

    def element(self, element: xml.Element) -> bytes:
        """Write an element."""
        return self.markup(markup.requoted(xml.fragment(element), self._tag))

    def markup(self, text: str) -> bytes:
        """Write what is markup already."""
        return text.replace("\n", self._newline).encode(self._codec, "xmlcharrefreplace")


class _Comparison:
    """A tree as it is beside the tree as it was and its text: yields what is to change in the text."""

    def __init__(self, held: dict[xml.Element, list[xml.Element]], pen: _Pen) -> None:
        self._held = held
        self._pen = pen

    def of(self, now: xml.Element, was: xml.Element, node: Node) -> Iterator[_Edit]:
        """Compare one element: `was` and `node` tell of the same one."""
        if now not in self._held or not xml.same_tag(now, was):
            if xml.text_of(now) != xml.text_of(was):
                yield node.start, node.end, self._pen.element(now)
            return
        children = list(self._children(now, was, node))
        if node.inner < node.end or not children:
            yield from children
            return
        # <devices/> has no inside: it comes to have one.
        head = self._pen.tag(node).removesuffix("/>").rstrip()
        inside = b"".join(content for _, _, content in children)
        name = head.split()[0].removeprefix("<")
        opening = self._pen.original(node.start, node.start + len(head)) + self._pen.markup(">")
        yield node.start, node.end, opening + inside + self._pen.markup(f"</{name}>")

    def _children(self, now: xml.Element, was: xml.Element, node: Node) -> Iterator[_Edit]:
        """Go from one child that is still there to the next; between them all may be new."""
        held, old = self._held[now], list(was)
        if len(old) != len(node.children):
            raise _MisfitError
        place = {child: index for index, child in enumerate(held)}
        gaps = list(_gaps(was, old, node))
        first, before, fresh = 0, now.text, list[xml.Element]()
        for child in [*now, None]:
            if child is not None and child not in place:
                fresh.append(child)
                continue
            last = len(old) if child is None else place[child]
            if last < first:
                raise _MisfitError
            yield from self._between(gaps[first : last + 1], before or "", fresh)
            if child is not None:
                yield from self.of(child, old[last], node.children[last])
                first, before, fresh = last + 1, child.tail, []

    def _between(self, gaps: Sequence[_Gap], before: str, fresh: Sequence[xml.Element]) -> Iterator[_Edit]:
        if not fresh and [before] == [text for text, _, _ in gaps]:
            return
        after = [before, *(child.tail or "" for child in fresh)]
        # As it stands, where white space stays: the first gap at the beginning, the last at the end.
        content = self._gap(after[0], gaps)
        for child, gap in zip(fresh, after[1:], strict=True):
            content += self._pen.element(child) + self._gap(gap, gaps[::-1])
        yield gaps[0][1], gaps[-1][2], content

    def _gap(self, text: str, gaps: Sequence[_Gap]) -> bytes:
        for known, start, end in gaps:
            if known == text:
                return self._pen.original(start, end)
        return self._pen.text(text)


def _gaps(was: xml.Element, old: Sequence[xml.Element], node: Node) -> Iterator[_Gap]:
    """Return what is before, between and after the children."""
    text, start = was.text or "", node.inner
    for child, place in zip(old, node.children, strict=True):
        yield text, start, place.start
        text, start = child.tail or "", place.end
    yield text, start, node.close


def _known(encoding: str) -> str:
    """Return a codec for an encoding in which ASCII's letters are ASCII's bytes."""
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        return "ascii"  # anything else becomes a character reference
