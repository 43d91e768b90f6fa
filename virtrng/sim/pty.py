# SPDX-License-Identifier: LGPL-2.1-or-later
"""A simulated key behind a pseudo-terminal, as cdc_acm puts a real one behind /dev/ttyACM0.

Source: pty(7), termios(3).
"""

import errno
import math
import os
import select
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from virtrng.errors import FileFailed, PlaceTaken
from virtrng.sim.firmware import Firmware

# A full-speed bulk packet: what the host writes at once arrives in such pieces.
PACKET_BYTES = 64
# What a terminal holds for its reader.
_OUTPUT_BYTES = 4096
# How often a key looks at the time whose host does not read: it makes nothing meanwhile.
_UNREAD_S = 0.05
_LONGEST_WAIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Terminal:
    """A pseudo-terminal: our end of it, the name of the host's end, and the link to that."""

    master: int
    name: str
    link: Path


@contextmanager
def terminal(link: Path) -> Iterator[Terminal]:
    """Give a pseudo-terminal, raw and without echo, that `link` leads to until the block ends.

    The link appears when all else is ready, and only where nothing is, or a link
    that leads nowhere: raises PlaceTaken, else FileFailed. When the block ends
    whoever has the terminal open sees it hang up.
    """
    try:
        master, slave = os.openpty()
    except OSError as error:
        raise FileFailed("/dev/ptmx", "open", error.strerror or str(error)) from error
    try:
        _make_raw(slave)
        os.set_blocking(master, False)
        name = os.ttyname(slave)
        _link(name, link)
        try:
            # NB: the host's end stays open here as well. Without anybody there, our end reports
            # a hang-up, again and again, and what is written to it is lost.
            yield Terminal(master, name, link)
        finally:
            _unlink(name, link)
    finally:
        os.close(master)
        os.close(slave)


def serve(firmware: Firmware, at: Terminal, stop: int, clock: Callable[[], float] = time.monotonic) -> None:
    """Be the key until the descriptor `stop` is readable, or the key is unplugged.

    `clock` is the firmware's. In place of a terminal it may be a stream socket: then
    the host's going ends it too. Raises FileFailed when the terminal is of no use any more.
    """
    poll = select.poll()
    poll.register(stop, select.POLLIN)
    unwritten = b""
    while True:
        firmware.advance(clock())
        if firmware.unplugged:
            return
        try:
            unwritten = _write(at.master, unwritten, firmware)
            poll.register(at.master, select.POLLIN | (select.POLLOUT if unwritten else 0))
            wait_s = max(firmware.next_due_s - clock(), _UNREAD_S if unwritten else 0.0)
            events = dict(poll.poll(math.ceil(1000 * min(wait_s, _LONGEST_WAIT_S))))
            if stop in events:
                return
            if events.get(at.master, 0) & ~select.POLLOUT:
                packet = os.read(at.master, PACKET_BYTES)
                if not packet:
                    return
                firmware.advance(clock())
                firmware.receive(packet)
        except ConnectionError:
            return
        except OSError as error:
            raise FileFailed(str(at.link), "serve", error.strerror or str(error)) from error


def _write(master: int, unwritten: bytes, firmware: Firmware) -> bytes:
    """Write what the terminal takes, and return what it did not take of the last piece."""
    while piece := unwritten or firmware.take(_OUTPUT_BYTES):
        try:
            unwritten = piece[os.write(master, piece) :]
        except BlockingIOError:
            return piece
    return b""


def _make_raw(descriptor: int) -> None:
    """Let every byte pass as it is: an echo would send the key its own frames, as commands."""
    attributes = termios.tcgetattr(descriptor)
    attributes[:4] = [0, 0, termios.CS8 | termios.CREAD | termios.CLOCAL, 0]
    attributes[6][termios.VMIN], attributes[6][termios.VTIME] = 1, 0
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)


def _link(name: str, link: Path) -> None:
    try:
        os.symlink(name, link)
    except FileExistsError:
        if not link.is_symlink():
            raise PlaceTaken(str(link), "it is not a link of virtrng's") from None
        if link.exists():
            raise PlaceTaken(str(link), f"it leads to {os.readlink(link)}") from None
        _replace(name, link)
    except OSError as error:
        raise FileFailed(str(link), "create", error.strerror or str(error)) from error


def _replace(name: str, link: Path) -> None:
    """Put a link in the place of one that leads nowhere: that of a process which was killed."""
    new = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        os.symlink(name, new)
        os.replace(new, link)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise FileFailed(str(link), "replace", error.strerror or str(error)) from error


def _unlink(name: str, link: Path) -> None:
    """Remove the link, unless it has become another's."""
    try:
        if os.readlink(link) == name:
            link.unlink()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise FileFailed(str(link), "remove", error.strerror or str(error)) from error
