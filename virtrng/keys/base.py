# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every key driver offers, and what the registry says of a family of keys."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from virtrng.transport.base import Transport


@dataclass(frozen=True, slots=True)
class Noise:
    """Bytes as a key delivered them, with the entropy that is claimed for them.

    `claimed_bits` is assessed min-entropy in bits, never more than 8 x len(data);
    whoever handles the bytes next can only lower it.
    """

    key: str
    data: bytes
    claimed_bits: int


class Telemetry(Protocol):
    """What a key says of itself, as far as it has said it; families differ in what that is."""

    @property
    def figures(self) -> Mapping[str, float]:
        """The last figures, by names that end with their unit; a count of events needs none.

        Those that mean the same have the same name in every family: `temperature_k`, `supply_v`,
        `fips_blocks` and `fips_failures` (FIPS 140-2 blocks that the key itself tested).
        """
        ...

    @property
    def verdict(self) -> str | None:
        """What the key's own tests found, in words; None if it has not said."""
        ...


class Counters(Protocol):
    """What a driver has seen since it was made."""

    @property
    def frames_bad(self) -> int:
        """Frames, packets or transfers that were dropped because they were not as they must be."""
        ...

    @property
    def sessions(self) -> int:
        """How often the key was made ready: by `start`, and by the driver itself since."""
        ...

    @property
    def telemetry(self) -> Telemetry:
        """What the key said of itself since `start`."""
        ...


class Key(Protocol):
    """One key in use: a driver on top of an open transport."""

    @property
    def serial(self) -> str:
        """The serial that the key itself reported."""
        ...

    @property
    def simulated(self) -> bool:
        """Whether nothing it delivers may be credited."""
        ...

    @property
    def counters(self) -> Counters:
        """What happened on the wire."""
        ...

    def start(self) -> None:
        """Make the key ready to read; raises a KeyTrouble where it cannot be made so."""
        ...

    def read(self, timeout_ms: int) -> Noise | None:
        """Return verified noise, or None if there was none within `timeout_ms`.

        Raises a KeyTrouble when the key cannot go on without being opened anew.
        """
        ...

    def close(self) -> None:
        """Give the transport back; a second call does nothing."""
        ...


@dataclass(frozen=True, slots=True)
class UsbMatch:
    """One product, as its USB descriptors name it."""

    vendor_id: int
    product_id: int
    product: str


@dataclass(frozen=True, slots=True)
class KeyKind:
    """A protocol family: a row of the registry.

    `min_entropy` is the assessed min-entropy per bit that is claimed unless the
    configuration says otherwise; `open` turns a transport and the path of the
    keyring into a driver, without touching the wire yet.
    """

    name: str
    title: str
    usb: tuple[UsbMatch, ...]
    min_entropy: float
    open: Callable[[Transport, Path, float], Key]
