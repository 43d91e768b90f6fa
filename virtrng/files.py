# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that are replaced whole or not at all, and locks that say who holds them."""

import fcntl
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from virtrng.errors import FileFailed


@contextmanager
def replacing(path: Path, mode: int, *, temporary_dir: Path | None = None) -> Iterator[BinaryIO]:
    """Give a file to write into, which takes the place of `path` when the block ends without an exception.

    A reader sees the old file or the new one, never part of one; an interrupted
    write leaves the old one and nothing beside it. `temporary_dir` must be on the
    same file system; default: the directory of `path`. Raises FileFailed, also
    where `path` is something else than a file: /dev/null must not be replaced.
    """
    temporary = None
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise FileFailed(str(path), "replace", "it is not a regular file")
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=temporary_dir or path.parent, prefix=f".{path.name}.")
        with os.fdopen(fd, "wb") as file:
            yield file
            os.fchmod(fd, mode)
            file.flush()
            os.fsync(fd)  # else a power cut may leave the new name with nothing in it
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise FileFailed(str(path), "write", error.strerror or str(error)) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def replace(path: Path, content: bytes, mode: int) -> None:
    """Make `content` the whole of `path`; raises FileFailed, and the old file is then untouched."""
    with replacing(path, mode) as file:
        file.write(content)


class Lock:
    """A lock file: held until closed or until the process ends; its text names the holder."""

    def __init__(self, path: Path, mode: int = 0o644) -> None:
        """Name the file, and who may see it once it is made; nothing is opened yet."""
        self.path = path
        self._mode = mode
        self._fd: int | None = None

    def acquire(self, holder: str) -> str | None:
        """Take the lock and return None, or return what its present holder wrote. Raises FileFailed."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(self.path, flags, self._mode)
        except OSError as error:
            raise FileFailed(str(self.path), "open", error.strerror or str(error)) from error
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
        except (BlockingIOError, PermissionError):
            with os.fdopen(fd) as file:
                return file.read().strip() or "another process"
        self._fd = fd
        with suppress(OSError):  # a full disk costs the name, not the lock
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{holder}\n".encode(), 0)
        return None

    def release(self) -> None:
        """Let the next one have it. The file stays: removing it would race with a waiter."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def holder(path: Path) -> str | None:
    """Return what the holder of the lock at `path` wrote, or None if nobody holds it. Changes nothing.

    Raises PermissionError to whom the file is closed.
    """
    try:
        with path.open() as file:
            # Asked, not tried: whoever wants the lock just now must not find us holding it.
            (kind, *_) = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, _flock(fcntl.F_RDLCK)))
            return None if kind == fcntl.F_UNLCK else file.read().strip() or "another process"
    except PermissionError:
        raise
    except OSError:
        return None


# struct flock of fcntl(2): type, whence, start, length, pid. A lock belongs to the open file (OFD).
_FLOCK = struct.Struct("@hhqqi4x")


def _flock(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)
