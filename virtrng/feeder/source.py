# SPDX-License-Identifier: LGPL-2.1-or-later
"""From what KEY means to an open driver, or a simulated one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virtrng.config import KeySettings
from virtrng.errors import KeyTrouble
from virtrng.keys import KEYS, find
from virtrng.keys.base import Key
from virtrng.keys.entropykey import ENTROPY_KEY, EntropyKey
from virtrng.sim import entropykey as sim_entropykey
from virtrng.transport import path, scan
from virtrng.transport.usb import UsbTransport

DEFAULT_KEYRING = Path("/etc/virtrng/keyring")


def _simulated_entropykey() -> Key:
    transport, long_term_key = sim_entropykey.simulated()
    return EntropyKey(transport, lambda _serial: long_term_key, min_entropy=ENTROPY_KEY.min_entropy)


# Simulated keys by the name of their kind: each call makes a new one.
SIMULATED: dict[str, Callable[[], Key]] = {"entropykey": _simulated_entropykey}


@dataclass(frozen=True, slots=True)
class Source:
    """A key that could be opened: `open` touches it for the first time.

    `name` is how it was named, `serial` what is known of it before it is opened; `place` is where
    it is plugged in: another one when it is plugged in anew.
    """

    name: str
    kind: str
    serial: str
    place: str
    min_entropy: float
    open: Callable[[], Key] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found: the keys that could be opened, and why there are not more of them."""

    sources: tuple[Source, ...]
    missing: tuple[KeyTrouble, ...] = ()

    def same_as(self, other: "Look | None") -> bool:
        """Whether `other` found the same."""
        return (
            other is not None
            and self.sources == other.sources
            and [str(trouble) for trouble in self.missing] == [str(trouble) for trouble in other.missing]
        )


def look(settings: tuple[KeySettings, ...], keyring: Path, wanted: Sequence[str]) -> Look:
    """Look for the `wanted` keys, or for all that are plugged in where none is named. Raises NoSuchKind."""
    sources: dict[tuple[str, str], Source] = {}
    missing: list[KeyTrouble] = []
    for one in wanted or (None,):
        try:
            for source in plugged_in(settings, keyring, one):
                sources[source.name, source.place] = source
        except KeyTrouble as trouble:
            missing.append(trouble)
    return Look(tuple(sources.values()), tuple(missing))


def plugged_in(settings: tuple[KeySettings, ...], keyring: Path, wanted: str | None) -> Iterator[Source]:
    """Yield the keys that could be opened: all that are plugged in, or the `wanted` one.

    Raises NoKey, NoSuchKey or NoSuchKind; for a key that is named by its path NoKeyAt or KeyDenied.
    """
    meant = find.meant_by(wanted) if wanted else None
    if isinstance(meant, find.At):
        yield _at(meant, settings, keyring)
        return
    found = find.among(scan.usb_devices())
    chosen = [find.named(found, wanted)] if wanted else find.some(found)
    pinned = {key.serial: key.min_entropy for key in settings}
    for key in chosen:
        min_entropy = pinned.get(key.device.serial) or key.kind.min_entropy
        opener = _opener(key, keyring, min_entropy)
        yield Source(key.name, key.kind.name, key.device.serial, key.device.node, min_entropy, opener)


def simulated(name: str) -> Source:
    """Return a simulated key of the kind called `name`, in this process: its bytes are never credited."""
    kind = next(kind for kind in KEYS if kind.name == name)
    return Source(f"simulated {name}", name, "", "this process", kind.min_entropy, SIMULATED[name])


def _opener(key: find.Found, keyring: Path, min_entropy: float) -> Callable[[], Key]:
    def open_key() -> Key:
        transport = UsbTransport(key.name, key.device)
        return key.kind.open(transport, keyring, min_entropy)

    return open_key


def _at(meant: find.At, settings: tuple[KeySettings, ...], keyring: Path) -> Source:
    path.way(meant.name, meant.path)
    # Which of the settings are this key's is not known before it has told its serial: the lowest counts.
    pinned = [key.min_entropy for key in settings if key.min_entropy is not None]
    min_entropy = min([meant.kind.min_entropy, *pinned])

    def open_key() -> Key:
        return meant.kind.open(path.at(meant.name, meant.path), keyring, min_entropy)

    return Source(meant.name, meant.kind.name, "", str(meant.path), min_entropy, open_key)
