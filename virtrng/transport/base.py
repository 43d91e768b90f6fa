# SPDX-License-Identifier: LGPL-2.1-or-later
"""The seam between moving bytes and what they mean: all that a driver knows of its key's wire."""

from typing import Protocol


class Transport(Protocol):
    """One open way to one key. Not for use by two threads at once."""

    @property
    def key(self) -> str:
        """The key's name for messages, as the user would write it: `entropykey:serial=…`."""
        ...

    @property
    def simulated(self) -> bool:
        """Whether the far end is a simulated key: what it sends is never credited."""
        ...

    def read(self, size: int, timeout_ms: int) -> bytes:
        """Return the next 1 to `size` bytes, or b"" if none came within `timeout_ms`.

        Raises KeyLost when the key is gone and KeyFault for any other failure.
        """
        ...

    def write(self, data: bytes, timeout_ms: int) -> None:
        """Send `data` whole, as one transfer where the wire has transfers.

        Raises KeyLost when the key is gone and KeyFault for any other failure, a timeout included.
        """
        ...

    def close(self) -> None:
        """Give the key back to the system; a second call does nothing."""
        ...
