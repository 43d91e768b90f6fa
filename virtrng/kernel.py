# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ioctls of random(4), one function each, the clock that ages are counted by, and a tty's two ioctls.

What is said of the kernel was read in drivers/char/random.c (6.1 to 7.3) and observed on 6.1 and 6.18.
"""

import errno
import fcntl
import os
import struct
import termios
import time

from virtrng.errors import FileFailed, KernelRefused

# _IOC's direction bits differ by architecture (uapi/asm-generic/ioctl.h and its overrides).
_OTHER = os.uname().machine.startswith(("alpha", "mips", "ppc", "sparc"))
_NONE, _READ, _WRITE = (0x20000000, 0x40000000, 0x80000000) if _OTHER else (0, 0x80000000, 0x40000000)
RNDGETENTCNT = _READ | 0x00045200  # _IOR('R', 0, int)
RNDADDENTROPY = _WRITE | 0x00085203  # _IOW('R', 3, int[2])
RNDRESEEDCRNG = _NONE | 0x00005207  # _IO('R', 7)

# One call is kept below this: the kernel looks for signals after each 4096
# bytes, and a call cut short there mixes without crediting.
MAX_BYTES = 4096

_POOL_INFO = struct.Struct("=ii")  # the head of struct rand_pool_info: bits to credit, bytes that follow


def open_random() -> int:
    """Open /dev/random for the ioctls below; the caller closes the descriptor. Raises FileFailed."""
    try:
        return os.open("/dev/random", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise FileFailed("/dev/random", "open", error.strerror or str(error)) from error


def add_entropy(fd: int, content: bytes | bytearray, entropy_bits: int) -> None:
    """Mix `content` into the input pool and credit `entropy_bits`.

    Wraps RNDADDENTROPY. The caller needs CAP_SYS_ADMIN in the initial user
    namespace, at every call. The kernel believes any credit: it is checked here
    to be 0 to 8 x len(content). The buffer that was handed over is cleared.

    Raises KernelRefused.
    """
    if not 0 <= entropy_bits <= 8 * len(content) or len(content) > MAX_BYTES:
        raise ValueError(f"{entropy_bits} bits for {len(content)} bytes")
    # A bytes argument may hold 1024 bytes at most (fcntl module); a bytearray any number. It is
    # filled in place: what bytes are made of on the way could not be cleared.
    buffer = bytearray(_POOL_INFO.size + len(content))
    _POOL_INFO.pack_into(buffer, 0, entropy_bits, len(content))
    buffer[_POOL_INFO.size :] = content
    try:
        fcntl.ioctl(fd, RNDADDENTROPY, buffer)
    except OSError as error:
        raise refused("RNDADDENTROPY", error) from error
    finally:
        buffer[:] = bytes(len(buffer))


def reseed(fd: int) -> None:
    """Make what was mixed in take effect now, not at the kernel's next reseed (up to 60 s later).

    Wraps RNDRESEEDCRNG; needs CAP_SYS_ADMIN. Before the CRNG is ready the kernel
    answers ENODATA: there is nothing to reseed, and the first credit does it.

    Raises KernelRefused.
    """
    try:
        fcntl.ioctl(fd, RNDRESEEDCRNG)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise refused("RNDRESEEDCRNG", error) from error


def entropy_avail(fd: int) -> int:
    """Return the kernel's count of credited bits: 256 for ever once the CRNG is ready (5.19 on).

    Wraps RNDGETENTCNT, which needs no privilege.
    """
    buffer = bytearray(4)
    fcntl.ioctl(fd, RNDGETENTCNT, buffer)
    return int(struct.unpack("=i", buffer)[0])


def check_access(fd: int) -> None:
    """Find out, by adding nothing, whether RNDADDENTROPY is allowed; raises KernelRefused."""
    add_entropy(fd, b"", 0)


def crng_ready() -> bool:
    """Whether getrandom(2) would answer at once."""
    try:
        os.getrandom(1, os.GRND_NONBLOCK)
    except BlockingIOError:
        return False
    return True


def boottime_s() -> float:
    """CLOCK_BOOTTIME: seconds since boot, suspend included; no step of the wall clock changes it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def tty_exclusive(fd: int) -> None:
    """Have the kernel answer EBUSY to whoever opens this terminal next, without CAP_SYS_ADMIN.

    Wraps TIOCEXCL (ioctl_tty(2)), which termios has no function for. Raises OSError.
    """
    fcntl.ioctl(fd, termios.TIOCEXCL)


def tty_shared(fd: int) -> None:
    """End tty_exclusive(): the last close does not while something else has the terminal open.

    Wraps TIOCNXCL. Raises OSError.
    """
    fcntl.ioctl(fd, termios.TIOCNXCL)


def refused(ioctl: str, error: OSError) -> KernelRefused:
    """Return what to raise where an ioctl of /dev/random failed with this error."""
    reason = "no CAP_SYS_ADMIN" if error.errno == errno.EPERM else error.strerror or str(error)
    return KernelRefused(ioctl, reason)
