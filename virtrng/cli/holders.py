# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who has a key in use, in words, and how that is ended."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from virtrng.cli import COMMANDS
from virtrng.errors import KeyInUse

SERVICE = "virtrng-feeder"

_PROC = Path("/proc")
_COMMANDS = frozenset(command.name for command in COMMANDS)
_PROCESS = re.compile(r"(?P<name>.*) \(pid (?P<pid>\d+)\)")


@dataclass(frozen=True, slots=True)
class Holder:
    """A program that has a key: `feeds` if it is ours and feeds the pool from it."""

    name: str
    feeds: bool
    way_out: str


def recognised(holder: str) -> Holder:
    """Turn 'NAME (pid N)' into what it is to us; its name is ours where it is a virtrng of ours."""
    found = _PROCESS.fullmatch(holder)
    pid = found["pid"] if found else ""
    words = [Path(word).name for word in _text(pid, "cmdline").split("\0")]
    ours = words[words.index("virtrng") + 1 :] if "virtrng" in words else []
    command = next((word for word in ours if word in _COMMANDS), None)
    if f"/{SERVICE}.service" in _text(pid, "cgroup"):
        way_out = f"'systemctl stop {SERVICE}' first; start it again afterwards"
        return Holder(f"virtrng feed, the service {SERVICE} (pid {pid})", feeds=True, way_out=way_out)
    if command == "feed":
        return Holder(f"virtrng feed (pid {pid})", feeds=True, way_out=f"end it first: 'kill {pid}'")
    if command:
        return Holder(f"virtrng {command} (pid {pid})", feeds=False, way_out="wait for it to end, or end it")
    if found and found["name"] == "ekeyd":
        way_out = (
            "'systemctl stop ekeyd' first; to move from it for good: 'systemctl disable --now ekeyd' "
            "and 'virtrng keys import-ekeyd'"
        )
        return Holder(holder, feeds=False, way_out=way_out)
    return Holder(holder, feeds=False, way_out="stop that program first, or choose another key")


@contextmanager
def told() -> Iterator[None]:
    """Have a KeyInUse of the block name the holder, and say how to end its use."""
    try:
        yield
    except KeyInUse as trouble:
        holder = recognised(trouble.holder)
        raise KeyInUse(trouble.key, holder.name, holder.way_out) from trouble


def _text(pid: str, file: str) -> str:
    """Return a file of the process, nothing if it has ended or is hidden from us."""
    try:
        return (_PROC / pid / file).read_text(errors="replace") if pid else ""
    except OSError:
        return ""
