# SPDX-License-Identifier: LGPL-2.1-or-later
"""The little that the hook must know of a guest at every start, without lxml: that takes 10 ms to import.

`facts` tells the same of every definition, and more. No entity is expanded, nothing outside the
document is read, and no more is kept of it than what is told.
"""

from pyexpat import ExpatError, ParserCreate

from virtrng.errors import MalformedXml

_LIBOSINFO = "http://libosinfo.org/xmlns/libvirt/domain/1.0"
_NAME = ("domain", "name")
_UUID = ("domain", "uuid")
_OS = ("domain", "metadata", f"{_LIBOSINFO}}}libosinfo", f"{_LIBOSINFO}}}os")
_RNG = ("domain", "devices", "rng")
_DEPTH = 4  # of the deepest of these


class Glance:
    """A guest: its name, its UUID as it stands, libosinfo's id of its system, its rngs' models in order."""

    def __init__(self) -> None:
        self.name = self.uuid = self.os = ""
        self.models: list[str] = []

    @property
    def virtio(self) -> bool:
        """Whether it has a device that the guest's virtio-rng driver serves."""
        return any(model.startswith("virtio") for model in self.models)


def at(content: bytes) -> Glance:
    """Read a <domain>; raises MalformedXml with line and column."""
    reader = _Reader()
    try:
        reader.parser.Parse(content, True)  # noqa: FBT003  it takes no keywords
    except ExpatError as error:
        raise MalformedXml(error.lineno, error.offset + 1, str(error).partition(":")[0]) from error
    except (ValueError, LookupError) as error:  # libvirt gives UTF-8
        raise MalformedXml(1, 1, f"in an encoding that the hook does not read: {error}") from error
    return reader.found


class _Reader:
    """The parser's callbacks."""

    def __init__(self) -> None:
        self.found = Glance()
        self.parser = ParserCreate(namespace_separator="}")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        # What is between two pieces of text ends it, as it does to lxml. With a default handler
        # references to the document's own entities come here, and are not expanded.
        self.parser.CommentHandler = self._end_text
        self.parser.ProcessingInstructionHandler = self._end_text
        self.parser.DefaultHandler = self._other
        self._path: tuple[str, ...] = ()
        self._below = 0  # how much deeper than that path
        self._seen: set[tuple[str, ...]] = set()
        self._reading: tuple[str, ...] = ()

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._end_text()
        if not self._path and tag != "domain":
            reason = f"<{tag.rpartition('}')[2]}> where <domain> is expected"
            raise MalformedXml(self.parser.CurrentLineNumber, 1, reason)
        if len(self._path) == _DEPTH:
            self._below += 1
            return
        self._path = (*self._path, tag)
        if self._path == _RNG:
            self.found.models.append(attributes.get("model", ""))
        elif self._path in (_NAME, _UUID, _OS) and self._path not in self._seen:
            self._seen.add(self._path)
            self._reading = self._path
            if self._path == _OS:
                self.found.os = attributes.get("id", "")

    def _end(self, _: str) -> None:
        self._end_text()
        if self._below:
            self._below -= 1
        else:
            self._path = self._path[:-1]

    def _text(self, text: str) -> None:
        if self._reading == _NAME:
            self.found.name += text
        elif self._reading == _UUID:
            self.found.uuid += text

    def _end_text(self, *_: str) -> None:
        self._reading = ()

    def _other(self, text: str) -> None:
        if text.startswith("&"):
            self._end_text()
