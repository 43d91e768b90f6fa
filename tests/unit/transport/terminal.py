# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real pseudo-terminal with nothing behind it."""

import os
import termios
from pathlib import Path
from typing import Any


class Pty:
    """Both ends, as a terminal is by default: it echoes, and changes what passes."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.name = Path(os.ttyname(self.slave))
        os.set_blocking(self.master, False)

    @property
    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def waits(self) -> bytes:
        """Return what was written at the host's end, or echoed there."""
        try:
            return os.read(self.master, 1 << 16)
        except BlockingIOError:
            return b""

    def hang_up(self) -> None:
        os.close(self.master)
        self.master = -1

    def close(self) -> None:
        for descriptor in {self.master, self.slave} - {-1}:
            os.close(descriptor)
