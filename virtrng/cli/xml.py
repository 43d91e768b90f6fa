# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng xml`: the filter for provisioning."""

import argparse
import re
import sys
from pathlib import Path

from virtrng import config
from virtrng.cli import device, output
from virtrng.config import DomainSettings
from virtrng.domain import markup, policy, transform
from virtrng.domain.markup import Document
from virtrng.domain.policy import Request
from virtrng.domain.rewrite import Source
from virtrng.errors import ExitCode, FileFailed, MalformedXml, Refused

# What is said of a guest because of what was asked for on the command line, not of what it is.
_ASKED_IN_VAIN = ("unsafe-source", "too-slow", "no-such-model")

EXAMPLES = """\
examples:
  virt-install … --print-xml 1 | virtrng xml | virsh define /dev/stdin
  virt-install … --print-xml 1 | virtrng xml --replace > web01.xml
  virsh dumpxml --inactive web01 | virtrng xml --rate 65536/1000

Several documents in a row are each filtered. What needs no device comes back as it came, byte for
byte, with a note on stderr; of the rest no byte changes but those of the device."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="domain XML (default: stdin)")
    device.add_arguments(parser)
    parser.epilog = EXAMPLES


def run(arguments: argparse.Namespace) -> int:
    """Filter; nothing is written unless all of the input could be read."""
    settings = config.load(arguments.config_file).domains
    asked = device.request(arguments)
    if asked.source and (refusal := policy.unsafe(asked.source)):
        raise Refused("--source", refusal.why, refusal.remedy)
    written: list[bytes] = []
    notes = [slow] if (slow := policy.slow(asked.rate)) else []
    for document in markup.documents(_read(arguments.file)):
        # What follows the last one may hold none; an input may not.
        filling = written and markup.is_filling(document)
        content = document.content if filling else _filtered(document, settings, asked, notes)
        written.append(document.before + content)
    for text in notes:
        output.note(text)
    output.raw(b"".join(written))
    return ExitCode.DONE


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise FileFailed(name, "read", error.strerror or str(error)) from error


def _filtered(document: Document, settings: DomainSettings, asked: Request, notes: list[str]) -> bytes:
    """Return what becomes of one document; raises MalformedXml, places counted from the top of the input."""
    try:
        source = Source(document)
    except MalformedXml as error:
        raise _moved(error, document) from error
    name = " ".join(source.root.findtext("name", "").split()) or "a guest without a name"
    refusal = transform.filtered(source.root, settings, asked)
    if refusal is None:
        return source.text()
    if refusal.code in _ASKED_IN_VAIN and (asked.source or asked.rate or asked.model):
        too_slow = refusal.code == "too-slow"  # nothing is there to be insisted on it with
        raise Refused(name, refusal.why, "choose another --rate" if too_slow else refusal.remedy)
    notes.append(f"{name}: passed through: {refusal.why}")
    return document.content


def _moved(error: MalformedXml, document: Document) -> MalformedXml:
    """Count the place of an error from the beginning of the input."""
    column = error.column + (document.column if error.line == 1 else 0)
    # libxml2 also tells the line of a tag that was not closed.
    reason = re.sub(r"\bline (\d+)", lambda told: f"line {int(told[1]) + document.line}", error.reason)
    return MalformedXml(error.line + document.line, column, reason)
