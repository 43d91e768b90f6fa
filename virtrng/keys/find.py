# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which of the devices that are plugged in are keys, and which of them KEY means."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from virtrng.errors import NoKey, NoSuchKey
from virtrng.keys import KEYS
from virtrng.keys.base import KeyKind
from virtrng.transport.scan import UsbDevice


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


def named(found: Sequence[Found], wanted: str) -> Found:
    """Return the key that `wanted` names: SERIAL or KIND:serial=SERIAL. Raises NoKey or NoSuchKey."""
    for key in some(found):
        if wanted in (key.device.serial, key.name):
            return key
    raise NoSuchKey(wanted, _names(found))


def some(found: Sequence[Found]) -> Sequence[Found]:
    """Return the keys that are there. Raises NoKey."""
    if not found:
        raise NoKey
    return found


def _names(found: Sequence[Found]) -> str:
    return ", ".join(key.name for key in found)
