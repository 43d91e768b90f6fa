# SPDX-License-Identifier: LGPL-2.1-or-later
"""A key behind a serial port of the kernel's, as cdc_acm makes one, or behind a pseudo-terminal.

Source: termios(3), ioctl_tty(2), pty(7), Documentation/admin-guide/devices.txt of the kernel.
"""

import errno
import os
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from virtrng import kernel
from virtrng.errors import KeyInUse, KeyTrouble, NoKeyAt
from virtrng.transport import scan
from virtrng.transport.stream import StreamTransport

# The hosts' ends of pseudo-terminals: BSD's, and Unix98's.
_PTY_MAJORS = frozenset((3, *range(136, 144)))
_CONTROL = termios.CS8 | termios.CREAD | termios.CLOCAL | termios.HUPCL
_SPEED = termios.B115200  # it has no effect on USB; this is ekeyd's


class TtyTransport(StreamTransport):
    """A terminal, raw, that nobody else uses.

    One on a pseudo-terminal counts as simulated: whatever is behind it is a program.
    """

    def __init__(self, key: str, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the terminal at `path`, make it raw, and drop what waits in it.

        Where another program has it open, it is left as it is: KeyInUse. Whom a
        process of another user has open is not known without being root.
        Raises NoKeyAt, KeyDenied, KeyInUse, KeyLost or KeyFault; nothing is then
        left open.
        """
        super().__init__(key, path, clock)
        self._before: list[Any] | None = None
        try:
            # O_NONBLOCK: without it, opening waits for a carrier.
            self._opened(os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
            self._take()
        except termios.error as error:
            self.close()
            raise self._error(OSError(*error.args), "opening it") from error
        except OSError as error:
            self.close()
            raise self._error(error, "opening it") from error
        except BaseException:
            self.close()
            raise

    def _take(self) -> None:
        fd = self._descriptor("opening it")
        before = termios.tcgetattr(fd)
        self.simulated = os.major(os.fstat(fd).st_rdev) in _PTY_MAJORS
        # After opening: of two that open it at once, one at least sees the other.
        if user := self._user():
            raise KeyInUse(self.key, user)
        self._before = before
        kernel.tty_exclusive(fd)
        termios.tcsetattr(fd, termios.TCSANOW, _raw(before))
        # What came before that may have been changed, or be half a frame.
        termios.tcflush(fd, termios.TCIOFLUSH)

    def _restore(self, fd: int) -> None:
        if self._before is None:
            return
        # Each for itself: one that was hung up takes none of them.
        with suppress(termios.error):
            termios.tcflush(fd, termios.TCOFLUSH)  # what was not sent must not keep close() waiting
        with suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSANOW, self._before)
        with suppress(OSError):
            kernel.tty_shared(fd)

    def _error(self, error: OSError, doing: str) -> KeyTrouble:
        if error.errno == errno.ENOTTY:
            return NoKeyAt(str(self._path), "it is neither a tty nor a socket")
        return super()._error(error, doing)

    def _user(self) -> str | None:
        return scan.holder(os.path.realpath(self._path))


def _raw(before: list[Any]) -> list[Any]:
    """Let every byte pass as it is: an echo would send the key its own frames, as commands."""
    characters = list(before[6])
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    return [termios.IGNBRK, 0, _CONTROL, 0, _SPEED, _SPEED, characters]
