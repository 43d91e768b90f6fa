# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the elements of a document stand in its text, and where one document ends and the next begins.

It judges nothing: what it finds in text that is not well-formed means nothing, and the parser
that is asked next says so. Time and memory grow linearly with the text, whatever is in it.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

# Text of any encoding but these is cut as Latin-1: in all of them (UTF-8, ISO 8859, EUC, Shift JIS, …)
# a byte that is '<', '>', a quote or white space in ASCII is that, and offsets are those of bytes.
_EIGHT_BITS = "latin-1"
_BOMS = {
    "utf-32-le": codecs.BOM_UTF32_LE,  # before UTF-16's, with which it begins
    "utf-32-be": codecs.BOM_UTF32_BE,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}
_BOM = re.compile("\ufeff|\xef\xbb\xbf")
_SPACES = "\t\n\r "

# Each can match in one way only, so that what matches nothing is known in linear time. No group is
# possessive: Python 3.11.2 then misses matches (gh-106052).
_COMMENT = "<!--[^-]*(?:-[^-]+)*-->"
_INSTRUCTION = r"<\?[^?]*(?:\?(?!>)[^?]*)*\?>"
_QUOTED = "(?:\"[^\"]*\"|'[^']*')"
_TOKEN = re.compile(
    rf"""
      {_COMMENT}
    | <!\[CDATA\[.*?\]\]>
    | {_INSTRUCTION}
    | <!DOCTYPE[^\[\]"'<>]*(?:{_QUOTED}[^\[\]"'<>]*)*
        (?:\[[^\]"'<]*(?:(?:{_COMMENT}|{_INSTRUCTION}|{_QUOTED}|<(?!!--|\?))[^\]"'<]*)*\][\t\n\r\ ]*)?>
    | </[^<>]*>
    | <[^!?/<>"'\t\n\r\ ][^<>"']*(?:{_QUOTED}[^<>"']*)*>
    | &(?!(?:lt|gt|amp|quot|apos);)[^\#;&<][^;&<]*;
    | (?P<bad><)
    """,
    re.DOTALL | re.VERBOSE,
)
_SPACE = re.compile(f"[{_SPACES}]*")
_DECLARATION = re.compile(rf"<\?xml[{_SPACES}]")
_MARK_BEFORE = re.compile(f"(?:{_BOM.pattern})$")
# After a '<' that begins nothing no more is read: libxml2 copies an open comment anew for each error in it.
_AFTER_BAD = 4096
# Children of <devices> and <metadata> are changed, and nothing deeper.
_DEPTH = 2


@dataclass(slots=True)
class Node:
    """An element, comment, processing instruction or entity: offsets in the text of its document.

    `inner` to `close` is what stands between the tags; both are `end` where there are not two.
    Children are those that lxml counts as such, of the root and of its children.
    """

    start: int
    inner: int
    close: int
    end: int
    children: list["Node"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Document:
    """One document of the input, from its XML declaration or its root's prologue to its root's end tag.

    `before` is what stands between it and the document before. `root` is None where no end of it
    was found. `line` and `column` count from 0, from the top of the input.
    """

    before: bytes
    content: bytes
    text: str
    codec: str
    line: int
    column: int
    root: Node | None

    @property
    def mark(self) -> bytes:
        """What a parser must see before the content to know its encoding: only the first may bear a mark."""
        mark = _BOMS.get(self.codec, b"")
        return b"" if self.content.startswith(mark) else mark

    @property
    def eight_bits(self) -> bool:
        """Whether its text is that of some encoding in which offsets are those of bytes."""
        return self.codec == _EIGHT_BITS

    def offset(self, position: int) -> int:
        """Return the offset in bytes of a position in the text."""
        return position if self.eight_bits else len(_encoded(self.text[:position], self.codec))


def documents(content: bytes) -> Iterator[Document]:
    """Cut the input, in at least one; the last may hold no more than space and comments (`is_filling`)."""
    start = line = column = 0
    if not content:
        yield Document(b"", b"", "", _EIGHT_BITS, 0, 0, None)
    while start < len(content):
        first, codec = _beginning(content, start)
        ahead, start = content[start:first], first
        line += ahead.count(b"\n")
        text = content[start : _whole(content, start, codec)].decode(codec, _errors(codec))
        position = 0
        while position < len(text):
            first, end, root = _scan(text, position)
            before, own = (_encoded(text[a:b], codec) for a, b in ((position, first), (first, end)))
            line, column = _moved(text, position, first, line, column)
            yield Document(ahead + before, own, text[first:end], codec, line, column, root)
            line, column = _moved(text, first, end, line, column)
            ahead, start, position = b"", start + len(before) + len(own), end
            if start < len(content) and _beginning(content, start)[1] != codec:
                break
        else:
            if start < len(content):  # half a letter
                rest = content[start:]
                yield Document(ahead, rest, rest.decode(_EIGHT_BITS), _EIGHT_BITS, line, column, None)
            return


def is_filling(document: Document) -> bool:
    """Whether it is no document, but space, comments and processing instructions after the last one."""
    if document.root is not None:
        return False
    last = 0
    for token in _TOKEN.finditer(document.text):
        if not token[0].startswith(("<!--", "<?")) or document.text[last : token.start()].strip(_SPACES):
            return False
        last = token.end()
    return not _BOM.sub("", document.text[last:]).strip(_SPACES)


def newline(text: str) -> str:
    """Return how its lines end."""
    found = re.search(r"\r\n?|\n", text)
    return found[0] if found else "\n"


def requoted(fragment: str, like: str) -> str:
    """Give the attributes of what lxml wrote the quotes that the tag `like` has, where that is possible."""
    if '="' in like or "='" not in like:
        return fragment
    return _TOKEN.sub(lambda token: re.sub(r'="([^"\']*)"', r"='\1'", token[0]), fragment)


def _whole(content: bytes, start: int, codec: str) -> int:
    """Return where the last whole letter ends."""
    return len(content) - (len(content) - start) % len(_BOMS.get(codec, b"."))


def _errors(codec: str) -> str:
    # What cannot be decoded must encode to as many bytes again.
    return "surrogatepass" if codec.startswith("utf-16") else "replace"


def _encoded(text: str, codec: str) -> bytes:
    return text.encode(codec, _errors(codec))


def _beginning(content: bytes, start: int) -> tuple[int, str]:
    """Return where a document begins, and in which letters it is written.

    Documents of one encoding are cut from one text; what is between those of two is space here.
    """
    codec, after = _codec(content, start), start
    spaces = [space.encode(codec) for space in _SPACES]
    while after < len(content) and content[after : after + len(spaces[0])] in spaces:
        after += len(spaces[0])
    other = _codec(content, after)
    return (start, codec) if other == codec or after == len(content) else (after, other)


def _codec(content: bytes, start: int) -> str:
    """Tell how many bytes a letter has, and which comes first, by the mark or the first letter."""
    head = content[start : start + 4]
    if head[:2].isalnum():
        return _EIGHT_BITS
    for codec, mark in _BOMS.items():
        if head.startswith(mark) or any(head.startswith(letter.encode(codec)) for letter in f"<{_SPACES}"):
            return codec
    return _EIGHT_BITS


def _moved(text: str, start: int, end: int, line: int, column: int) -> tuple[int, int]:
    lines = text.count("\n", start, end)
    if not lines:
        return line, column + end - start
    return line + lines, end - text.rfind("\n", start, end) - 1


def _scan(text: str, position: int) -> tuple[int, int, Node | None]:
    """Return where the document at `position` starts and ends, and its root."""
    start = last = _SPACE.match(text, position).end()  # type: ignore[union-attr]
    for token in _TOKEN.finditer(text, start):
        if (
            token["bad"]
            or token[0].startswith("</")
            or _BOM.sub("", text[last : token.start()]).strip(_SPACES)
        ):
            break
        if not token[0].startswith(("<!", "<?")):
            root, last = _element(text, token.start(), start)
            if root:
                return start, last, root
            break
        if last > start and _DECLARATION.match(token[0]):  # what was before it is between two documents
            start = token.start()
            mark = _MARK_BEFORE.search(text[last:start])
            start -= len(mark[0]) if mark else 0
        last = token.end()
    return start, min(last + _AFTER_BAD, len(text)), None


def _element(text: str, position: int, start: int) -> tuple[Node | None, int]:
    """Return the element at `position`, None if it has no end, and where the reading ended.

    The places in it are counted from `start`.
    """
    above: list[Node] = []
    depth = end = 0
    for token in _TOKEN.finditer(text, position):
        begin, end = token.span()
        if token["bad"]:
            break
        if text.startswith("</", begin):
            depth -= 1
            if depth <= _DEPTH:
                node = above.pop()
                node.close, node.end = begin - start, end - start
        elif depth > _DEPTH:
            depth += _opens(text, begin, end)
        elif not text.startswith("<![", begin):
            node = Node(begin - start, end - start, end - start, end - start)
            if above:
                above[-1].children.append(node)
            if _opens(text, begin, end):
                above.append(node)
                depth += 1
        if depth == 0:
            return node, end
    return None, end


def _opens(text: str, begin: int, end: int) -> bool:
    """Whether a token is a tag that another one will close."""
    return text[begin] == "<" and text[begin + 1] not in "!?" and text[end - 2] != "/"
