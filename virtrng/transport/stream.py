# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the ways to a key that are one descriptor have in common: a tty, a socket."""

import errno
import math
import os
import select
import time
from collections.abc import Callable
from pathlib import Path

from virtrng.errors import KeyDenied, KeyFault, KeyInUse, KeyLost, KeyTrouble, NoKeyAt

_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
# EIO: what a terminal that was hung up answers.
_GONE = (errno.EIO, errno.ENODEV, errno.ENXIO, errno.EPIPE, errno.ECONNRESET)
_LONGEST_POLL_MS = 2**31 - 1  # poll(2) counts in an int


def nothing_at(path: Path, error: OSError) -> NoKeyAt:
    """Say that `path`, by this error, leads nowhere."""
    missing = error.errno == errno.ENOENT
    return NoKeyAt(str(path), "nothing is there" if missing else error.strerror or str(error))


class StreamTransport:
    """One open descriptor that does not block; see transport.base.Transport for its methods.

    `path` is where the user said that it is. `clock` counts seconds.
    """

    simulated = False

    def __init__(self, key: str, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.key = key
        self._path = path
        self._clock = clock
        self._fd: int | None = None
        self._poll = select.poll()

    def _opened(self, fd: int) -> None:
        """Own `fd` from now on."""
        os.set_blocking(fd, False)
        self._fd = fd
        self._poll.register(fd, select.POLLIN)

    def read(self, size: int, timeout_ms: int) -> bytes:
        """See Transport.read."""
        doing = "being read"
        fd = self._descriptor(doing)
        until_s = self._clock() + timeout_ms / 1000
        while self._wait(fd, select.POLLIN, until_s):
            try:
                data = os.read(fd, size)
            except BlockingIOError:  # somebody else was faster
                continue
            except OSError as error:
                raise self._error(error, doing) from error
            if not data:
                raise self._ended(doing)
            return data
        return b""

    def write(self, data: bytes, timeout_ms: int) -> None:
        """See Transport.write."""
        doing = "being written to"
        fd = self._descriptor(doing)
        until_s = self._clock() + timeout_ms / 1000
        sent = 0
        while sent < len(data):
            if not self._wait(fd, select.POLLOUT, until_s):
                raise KeyFault(self.key, f"it took {sent} of {len(data)} bytes within {timeout_ms} ms")
            try:
                sent += os.write(fd, data[sent:])
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._error(error, doing) from error

    def close(self) -> None:
        """Close it; a second call does nothing."""
        fd, self._fd = self._fd, None
        if fd is not None:
            try:
                self._restore(fd)
            finally:
                os.close(fd)

    def _restore(self, fd: int) -> None:
        """Leave it as it was found; raises nothing."""

    def _descriptor(self, doing: str) -> int:
        if self._fd is None:
            raise KeyLost(self.key, doing)
        return self._fd

    def _wait(self, fd: int, event: int, until_s: float) -> bool:
        """Wait until reading or writing would tell something; False if it would not until then."""
        wait_ms = math.ceil((until_s - self._clock()) * 1000)
        if wait_ms <= 0:
            return False
        self._poll.modify(fd, event)
        return bool(self._poll.poll(min(wait_ms, _LONGEST_POLL_MS)))

    def _ended(self, doing: str) -> KeyTrouble:
        """Return what the end of the stream means."""
        return KeyLost(self.key, doing)

    def _error(self, error: OSError, doing: str) -> KeyTrouble:
        """Return what an error of the system's means."""
        if error.errno in _NOTHING_THERE:
            return nothing_at(self._path, error)
        if error.errno in (errno.EACCES, errno.EPERM):
            return KeyDenied(self.key, str(self._path))
        if error.errno == errno.EBUSY:
            return KeyInUse(self.key, self._user() or "another program")
        if error.errno in _GONE:
            return KeyLost(self.key, doing)
        return KeyFault(self.key, f"{error.strerror or error} while {doing}")

    def _user(self) -> str | None:
        """Name the program that uses it, where that can be told."""
        return None
