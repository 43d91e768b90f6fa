# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng xml`: the filter for provisioning."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from virtrng import config
from virtrng.cli import enable, output
from virtrng.config import DomainSettings
from virtrng.domain import transform, xml
from virtrng.domain.policy import Request
from virtrng.errors import ExitCode, FileFailed, MalformedXml

_END = b"</domain>"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="domain XML (default: stdin)")
    enable.add_device_arguments(parser)
    parser.epilog = (
        "example:\n  virt-install … --print-xml 1 | virtrng xml | virsh define /dev/stdin\n\n"
        "Several documents in a row are each filtered. What needs no change comes back byte for byte."
    )


def run(arguments: argparse.Namespace) -> int:
    """Filter; nothing is written unless all of the input could be read."""
    settings = config.load(arguments.config_file).domains
    documents = list(_documents(_read(arguments.file)))
    asked = enable.request(arguments)
    filtered = b"".join(_filtered(document, settings, asked) for document in documents)
    sys.stdout.buffer.write(filtered)
    sys.stdout.buffer.flush()
    return ExitCode.DONE


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise FileFailed(name, "read", error.strerror or str(error)) from error


def _documents(content: bytes) -> Iterator[bytes]:
    """Cut `content` after each document, white space kept; raises MalformedXml, lines counted from the top.

    An end tag may also stand in a comment, so that a document is taken to end at
    the first one up to which it can be read.
    """
    start = 0
    while content[start:].strip():
        end = start
        while True:
            end = content.find(_END, end) + len(_END)
            if end < len(_END) or not content[end:].strip():
                end = len(content)
            try:
                xml.parse(content[start:end].lstrip())
                break
            except MalformedXml as error:
                if end == len(content):
                    raise _moved(
                        error, content[:start] + content[start:][: -len(content[start:].lstrip())]
                    ) from error
        yield content[start:end]
        start = end


def _moved(error: MalformedXml, before: bytes) -> MalformedXml:
    return MalformedXml(error.line + before.count(b"\n"), error.column, error.reason)


def _filtered(document: bytes, settings: DomainSettings, asked: Request) -> bytes:
    # In UTF-16 white space is more than one byte, and what follows the document is let go.
    text = document if b"\0" in document else document.strip()
    root = xml.parse(text)
    unchanged = transform.filtered(root, settings, asked)
    if unchanged:
        output.note(f"{root.findtext('name', 'a guest without a name')}: {unchanged}: passed through")
        return document
    return document.replace(text, xml.serialise(root, text))
