# SPDX-License-Identifier: LGPL-2.1-or-later
"""What KEY means, and which of the devices that are plugged in are keys."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from virtrng.errors import NoKey, NoSuchKey, NoSuchKind
from virtrng.keys import KEYS, kind_named
from virtrng.keys.base import KeyKind
from virtrng.transport.scan import UsbDevice

# What KEY is, as the help of every command says it.
KEY_HELP = "SERIAL, KIND:serial=SERIAL, or KIND:PATH of a tty or socket (PATH begins with /, ./ or ../)"

# A serial may contain '/', ':' and '=' too: it is one, unless it is in one of these forms.
_FORM = re.compile(r"(?P<kind>\w+):(?:serial=(?P<serial>.*)|(?P<path>\.{0,2}/.*))", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Found:
    """A key that is plugged in, not opened."""

    kind: KeyKind
    device: UsbDevice

    @property
    def name(self) -> str:
        """How a user names it: a serial may contain '/', so it is marked as one."""
        return f"{self.kind.name}:serial={self.device.serial}"


def among(devices: Iterable[UsbDevice]) -> list[Found]:
    """Pick the keys out of `devices` by the registry's match tables."""
    return [
        Found(kind, device)
        for device in devices
        for kind in KEYS
        for match in kind.usb
        if (match.vendor_id, match.product_id) == (device.vendor_id, device.product_id)
    ]


@dataclass(frozen=True, slots=True)
class At:
    """A key that is named by the path to it, whether or not it is there."""

    kind: KeyKind
    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Serial:
    """A key that is named by its serial, of whatever kind if `kind` is None."""

    kind: KeyKind | None
    serial: str


def meant_by(text: str) -> At | Serial:
    """Return what KEY means: SERIAL, KIND:serial=SERIAL or KIND:PATH. Raises NoSuchKind."""
    form = _FORM.fullmatch(text)
    if form is None:
        return Serial(None, text)
    kind = kind_named(form["kind"])
    if kind is None:
        raise NoSuchKind(form["kind"], ", ".join(one.name for one in KEYS))
    if form["path"] is None:
        return Serial(kind, form["serial"])
    return At(kind, Path(form["path"]), text)


def named(found: Sequence[Found], wanted: str) -> Found:
    """Return the key that `wanted` names by its serial. Raises NoKey, NoSuchKey or NoSuchKind."""
    meant = meant_by(wanted)
    for key in some(found):
        if isinstance(meant, Serial) and meant.serial == key.device.serial and meant.kind in (None, key.kind):
            return key
    raise NoSuchKey(wanted, _names(found))


def some(found: Sequence[Found]) -> Sequence[Found]:
    """Return the keys that are there. Raises NoKey."""
    if not found:
        raise NoKey
    return found


def _names(found: Sequence[Found]) -> str:
    return ", ".join(key.name for key in found)
