# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng xml`: the filter for provisioning."""

import argparse
import re
import sys
from pathlib import Path

from virtrng import config
from virtrng.cli import device, output
from virtrng.config import DomainSettings
from virtrng.domain import policy, transform, xml
from virtrng.domain.policy import Request
from virtrng.errors import ExitCode, FileFailed, MalformedXml, Refused

_END = b"</domain>"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="domain XML (default: stdin)")
    device.add_arguments(parser)
    parser.epilog = (
        "example:\n  virt-install … --print-xml 1 | virtrng xml | virsh define /dev/stdin\n\n"
        "Several documents in a row are each filtered. What needs no change comes back byte for byte."
    )


def run(arguments: argparse.Namespace) -> int:
    """Filter; nothing is written unless all of the input could be read."""
    settings = config.load(arguments.config_file).domains
    asked = device.request(arguments)
    if asked.source and (refusal := policy.unsafe(asked.source)):
        raise Refused("--source", refusal.why, refusal.remedy)
    documents = _documents(_read(arguments.file))
    output.raw(b"".join([_filtered(document, settings, asked) for document in documents]))
    return ExitCode.DONE


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise FileFailed(name, "read", error.strerror or str(error)) from error


def _documents(content: bytes) -> list[bytes]:
    """Cut `content` after each document, space kept; raises MalformedXml, places counted from the top."""
    documents: list[bytes] = []
    start = 0
    while content[start:].strip() or not documents:
        try:
            end = _end_of_document(content, start)
        except MalformedXml:
            # A comment after the last document belongs to that.
            if not documents or not _is_document(documents[-1] + content[start:]):
                raise
            documents[-1] += content[start:]
            break
        documents.append(content[start:end])
        start = end
    return documents


def _end_of_document(content: bytes, start: int) -> int:
    """Return where the document that begins at `start` ends.

    An end tag may also stand in a comment, so that it is taken to end at the
    first one up to which it can be read.
    """
    end = start
    while True:
        end = content.find(_END, end) + len(_END)
        if end < len(_END) or not content[end:].strip():
            end = len(content)
        text = content[start:end].lstrip()
        try:
            xml.parse(text)
        except MalformedXml as error:
            if end == len(content):
                raise _moved(error, content[: end - len(text)]) from error
        else:
            return end


def _is_document(content: bytes) -> bool:
    try:
        xml.parse(content.strip())
    except MalformedXml:
        return False
    return True


def _moved(error: MalformedXml, before: bytes) -> MalformedXml:
    """Count the place of an error from the beginning of the input."""
    lines = before.count(b"\n")
    column = error.column + (len(before) - before.rfind(b"\n") - 1 if error.line == 1 else 0)
    # libxml2 also tells the line of a tag that was not closed.
    reason = re.sub(r"\bline (\d+)", lambda told: f"line {int(told[1]) + lines}", error.reason)
    return MalformedXml(error.line + lines, column, reason)


def _filtered(document: bytes, settings: DomainSettings, asked: Request) -> bytes:
    # In UTF-16 white space is more than one byte, and what follows the document is let go.
    text = document if b"\0" in document else document.strip()
    root = xml.parse(text)
    unchanged = transform.filtered(root, settings, asked)
    if unchanged:
        output.note(f"{root.findtext('name', 'a guest without a name')}: {unchanged}: passed through")
        return document
    return document.replace(text, xml.serialise(root, text))
