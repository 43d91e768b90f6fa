# SPDX-License-Identifier: LGPL-2.1-or-later
"""A key behind a UNIX stream socket, which ekey-ulusbd serves: every byte passes both ways unaltered.

Source: unix(7); host/ekey-ulusbd.c of ekeyd 1.1.5.
"""

import errno
import socket
import time
from collections.abc import Callable
from pathlib import Path

from virtrng.errors import KeyInUse, KeyTrouble, NoKeyAt
from virtrng.transport.stream import StreamTransport

_NO_ANSWER: dict[int | None, str] = {
    errno.ECONNREFUSED: "nobody serves this socket",
    errno.EPROTOTYPE: "it is not a stream socket",
    None: "its name is too long for a socket",  # that Python tells by itself
}


class UnixTransport(StreamTransport):
    """A connection to the program that has the key."""

    def __init__(self, key: str, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Connect to the socket at `path`, without waiting for a program that is busy.

        Raises NoKeyAt, KeyDenied, KeyInUse or KeyFault; nothing is then left open.
        """
        super().__init__(key, path, clock)
        self._heard = False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as connection:
            try:
                connection.connect(str(path))
            except BlockingIOError as error:  # its queue of those who wait is full
                raise KeyInUse(key, "another program") from error
            except OSError as error:
                raise self._error(error, "opening it") from error
            self._opened(connection.detach())

    def read(self, size: int, timeout_ms: int) -> bytes:
        """See Transport.read. Raises KeyInUse when the connection is closed before the first byte."""
        data = super().read(size, timeout_ms)
        self._heard = self._heard or bool(data)
        return data

    def _ended(self, doing: str) -> KeyTrouble:
        # ekey-ulusbd has one client at a time: others are accepted, and closed.
        return super()._ended(doing) if self._heard else KeyInUse(self.key, "another program")

    def _error(self, error: OSError, doing: str) -> KeyTrouble:
        if error.errno in _NO_ANSWER:
            return NoKeyAt(str(self._path), _NO_ANSWER[error.errno])
        if error.errno in (errno.EPIPE, errno.ECONNRESET):
            return self._ended(doing)
        return super()._error(error, doing)
