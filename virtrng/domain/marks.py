# SPDX-License-Identifier: LGPL-2.1-or-later
"""What an arrival leaves for the prepare that follows it, which else looks like a fresh start.

A mark is a file `run_dir`-hook/UUID, root's alone; it holds the CLOCK_BOOTTIME at which it was left, in s.
"""

import os

from virtrng import kernel

# A prepare that follows the arrival of a guest comes within moments; a mark that
# is older belongs to an arrival that failed.
LIFETIME_S = 60.0

_HEX = frozenset("0123456789abcdefABCDEF")


def leave(run_dir: str | os.PathLike[str], guest_uuid: str) -> None:
    """Note that the next prepare of this guest is an arrival. Raises OSError, and ValueError for no UUID."""
    mark = _path(run_dir, guest_uuid)
    os.makedirs(os.path.dirname(mark), mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(mark, flags, 0o600)
    try:
        os.write(fd, f"{kernel.boottime_s()!r}\n".encode())
    finally:
        os.close(fd)


def take(run_dir: str | os.PathLike[str], guest_uuid: str) -> bool:
    """Remove the mark of a guest; return whether it was there and fresh. Raises ValueError for no UUID."""
    mark = _path(run_dir, guest_uuid)
    try:
        fd = os.open(mark, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        text = os.read(fd, 64)
        os.unlink(mark)
        return 0.0 <= kernel.boottime_s() - float(text) <= LIFETIME_S
    except (OSError, ValueError):
        return False
    finally:
        os.close(fd)


def _path(run_dir: str | os.PathLike[str], guest_uuid: str) -> str:
    # Parsed and printed again: nothing that a definition says becomes a path. Not by uuid.UUID: that
    # module takes 10 ms to import.
    digits = guest_uuid.replace("-", "")
    if len(digits) != 32 or not _HEX.issuperset(digits):
        raise ValueError(f"badly formed UUID {guest_uuid[:40]!r}")
    text = digits.lower()
    name = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    return f"{os.fspath(run_dir)}-hook/{name}"
