# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a guest that nobody named is looked after, and whether it was there before the watcher was."""

import json
import uuid as uuids
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from virtrng import files
from virtrng.config import DomainSettings
from virtrng.domain import rules, xml
from virtrng.domain.facts import Facts
from virtrng.errors import BadMemory, FileFailed, HypervisorFault

VERSION = 1


@dataclass(frozen=True, slots=True)
class Left:
    """Why a guest is left alone: one word for scripts, a few for a table."""

    word: str
    briefly: str


_OFF = Left("off", 'manage = "off"')
_BEFORE = Left("before", "here before the watcher")


def left_alone(
    before: Facts, settings: DomainSettings, remembered: Collection[str], *, has_ours: bool
) -> Left | None:
    """Say why `manage` leaves a guest as it is; None if it is to have the device.

    One that has our device, or wants it by its own metadata, is looked after whatever `manage` says.
    `remembered` are the UUIDs of those that were there when the watcher first ran.
    """
    if has_ours or (before.wish and before.wish.wanted):
        return None
    manage = rules.rule_for(before.name, before.uuid, before.os, settings).manage or settings.manage
    if manage == "off":
        return _OFF
    return _BEFORE if manage == "new" and before.uuid in remembered else None


def host_uuid(capabilities: bytes) -> str:
    """Read the UUID of the libvirt host out of its capabilities. Raises HypervisorFault without one."""
    found = xml.parse(b"<domain>%b</domain>" % capabilities).findtext("capabilities/host/uuid", "")
    try:
        return str(uuids.UUID(found))
    except ValueError as error:
        raise HypervisorFault("tell the UUID of its host", f"it has told {found!r}") from error


def recall(state_dir: Path, host: str) -> frozenset[str] | None:
    """Return the UUIDs of the guests that were there when the watcher first ran on a libvirt host.

    None if it never did. Raises BadMemory where the file tells nothing: without it each guest would be new.
    """
    path = _file(state_dir, host)
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != VERSION:
            raise BadMemory(str(path), f"version {document['version']!r}, where {VERSION} is known")
        if not isinstance(document["guests"], list):
            raise TypeError(f"guests is {document['guests']!r}")
        return frozenset(str(uuids.UUID(one)) for one in document["guests"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileFailed(str(path), "read", error.strerror or str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadMemory(str(path), f"not a list of guests: {error}") from error


def remember(state_dir: Path, host: str, present: Callable[[], Iterable[str]]) -> frozenset[str]:
    """Return what `recall` does; where the watcher never ran, first write down those that are `present`.

    Raises BadMemory or FileFailed.
    """
    known = recall(state_dir, host)
    if known is None:
        known = frozenset(present())
        content = json.dumps({"version": VERSION, "guests": sorted(known)}, indent=1)
        files.replace(_file(state_dir, host), f"{content}\n".encode(), 0o644)
    return known


def _file(state_dir: Path, host: str) -> Path:
    return state_dir / f"{host}.json"
