# SPDX-License-Identifier: LGPL-2.1-or-later
"""The seam between a simulated key's firmware and the places that it is served at."""

from typing import Protocol


class Firmware(Protocol):
    """What a simulated key is to those who serve it; seconds are of whatever clock serves it."""

    @property
    def serial(self) -> str:
        """The serial that it is sold under."""
        ...

    @property
    def next_due_s(self) -> float:
        """When it will next do something by itself."""
        ...

    @property
    def unplugged(self) -> bool:
        """Whether it has gone: then nothing comes of it, nor of what is sent to it."""
        ...

    def plug_in(self, now_s: float) -> None:
        """Begin anew, as a key that gets power; it still knows its long-term key."""
        ...

    def advance(self, now_s: float) -> None:
        """Do whatever is due up to `now_s`."""
        ...

    def take(self, size: int) -> bytes:
        """Return up to `size` of the bytes that wait for the host."""
        ...

    def receive(self, packet: bytes) -> None:
        """Take one packet of the host's."""
        ...
