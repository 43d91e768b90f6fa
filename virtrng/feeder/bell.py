# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a loop waits at: other threads and signal handlers ring it."""

import math
import os
import select
from typing import Protocol


class Readable(Protocol):
    """Whatever poll(2) can wait for."""

    def fileno(self) -> int:
        """Return its descriptor."""
        ...


class Bell:
    """Wakes its one waiter. Ringing takes no lock, as an Event's set() does: a signal handler may ring it."""

    def __init__(self, *others: Readable) -> None:
        """`others` wake the waiter too when there is something to read from them."""
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        for fd in (self._fd, *(other.fileno() for other in others)):
            self._poll.register(fd, select.POLLIN)
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """Whether the waiter was told to end."""
        return self._stopping

    def ring(self) -> None:
        """Wake the waiter, or keep it from waiting the next time."""
        os.eventfd_write(self._fd, 1)

    def stop(self) -> None:
        """Tell the waiter to end."""
        self._stopping = True
        self.ring()

    def wait(self, timeout_s: float) -> None:
        """Return when it was rung, or after `timeout_s`."""
        for fd, _ in self._poll.poll(max(0, math.ceil(timeout_s * 1000))):
            if fd == self._fd:
                os.eventfd_read(fd)

    def close(self) -> None:
        """Take it down, when nobody rings it any more."""
        os.close(self._fd)
