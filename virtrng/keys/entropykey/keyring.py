# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file that holds the long-term keys, in the format of ekeyd's.

One key a line: the serial's 16 and the long-term key's 44 base64 characters,
with blanks between them; "#" begins a comment. Of several lines for one serial
the last counts.

Source: ekeyd 1.1.5, host/keydb.c and the keyring that its ekey-setkey writes.
"""

import base64
import binascii
import grp
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from virtrng.errors import BadKeyring, FileFailed, KeyringBusy, NoLongTermKey
from virtrng.files import Lock, replacing
from virtrng.keys.entropykey.session import SECRET_BYTES, SERIAL_BYTES

_GROUP = "virtrng"
# A serial, a blank, a long-term key, and the end of the line.
_LINE_BYTES = 16 + 1 + 44 + 1

Put = Callable[[Mapping[str, bytes]], None]


def long_term_key(keyring: Path, serial: str) -> bytes:
    """Return the 32-byte long-term key of the key called `serial`.

    The file must belong to root or to the user who reads it, and to nobody else
    but the group virtrng, which may read it. Raises NoLongTermKey if the file or
    the line is not there, BadKeyring if any line is malformed or the file is
    open to more people, FileFailed if it cannot be read for another reason.
    """
    found = long_term_keys(keyring).get(serial)
    if found is None:
        raise NoLongTermKey(serial, str(keyring))
    return found


def long_term_keys(keyring: Path) -> dict[str, bytes]:
    """Return all long-term keys by their serials, none if there is no such file; raises as long_term_key."""
    return _parsed(keyring, _contents(keyring))


def foreign_long_term_keys(keyring: Path) -> tuple[dict[str, bytes], bool]:
    """Return those in a keyring of ekeyd's, and whether the file is open to more people than its owner.

    Raises BadKeyring if any line is malformed, and if it is not there or not ours to read; else FileFailed.
    """
    try:
        with _opened(keyring) as file:
            found = os.fstat(file.fileno())
            return _parsed(keyring, file.read()), bool(found.st_mode & (stat.S_IRWXG | stat.S_IRWXO))
    except FileNotFoundError:
        want = "name the file, if it is elsewhere; 'virtrng keys pair' pairs a key that ekeyd never had"
        raise BadKeyring(str(keyring), why="there is no such file", want=want) from None
    except PermissionError:
        why = f"user {os.geteuid()} may not read it"
        raise BadKeyring(str(keyring), why=why, want="run as root") from None
    except OSError as error:
        raise FileFailed(str(keyring), doing="read", reason=error.strerror or str(error)) from error


def store(keyring: Path, serial: str, long_term_key: bytes) -> None:
    """Make this the long-term key of the key called `serial`; raises as `storing`."""
    with storing(keyring) as put:
        put({serial: long_term_key})


@contextmanager
def storing(keyring: Path) -> Iterator[Put]:
    """Give a function that adds long-term keys by their serials, or replaces them, and keeps all else.

    What can fail does so before it is given: the lock is held, the old file read
    and judged, and the room for the new one taken. When the block ends without
    an exception the new file is there, root's and the group virtrng's to read;
    where there is no such group, or for another user than root, its owner's alone.

    Raises BadKeyring for a file that long_term_key would refuse, KeyringBusy, and FileFailed.
    """
    lock = Lock(keyring.with_name(f".{keyring.name}.lock"), mode=0o600)
    if holder := lock.acquire(f"virtrng keys (pid {os.getpid()})"):
        raise KeyringBusy(str(keyring), holder)
    try:
        yield from _replacing(keyring)
    finally:
        lock.release()


def _replacing(keyring: Path) -> Iterator[Put]:
    old = _contents(keyring)
    _parsed(keyring, old)
    put_in: dict[str, bytes] = {}
    gid = _group() if os.geteuid() == 0 else None
    with replacing(keyring, 0o600 if gid is None else 0o640) as file:
        if gid is not None:
            os.fchown(file.fileno(), 0, gid)
        # NB: a key may be about to change its long-term key for good. A full disk must tell now.
        _write(file, old + b"\n" * _LINE_BYTES)
        yield put_in.update
        _write(file, _changed(old, put_in))
    _sync_directory(keyring.parent)


def _write(file: BinaryIO, content: bytes) -> None:
    """Make `content` the whole of `file`, on the disk."""
    file.seek(0)
    file.write(content)
    file.truncate()
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise FileFailed(str(directory), doing="write", reason=error.strerror or str(error)) from error


def _changed(old: bytes, put_in: Mapping[str, bytes]) -> bytes:
    """Return the text `old` with these long-term keys in it: in the last line for each, or after all."""
    new: list[bytes] = []
    left = dict(put_in)
    for line in reversed(old.splitlines(keepends=True)):
        serial, *secret = line.partition(b"#")[0].split() or [b""]
        name = serial.decode("ascii", "replace")
        if not secret or name not in put_in:
            new.append(line)
        elif name in left:
            new.append(line.replace(secret[0], base64.b64encode(left.pop(name)), 1))
        # An earlier line of the same serial counts for nothing, and is an old secret.
    text = b"".join(reversed(new))
    if text and not text.endswith(b"\n"):
        text += b"\n"
    return text + b"".join(
        b"%s %s\n" % (name.encode("ascii"), base64.b64encode(secret)) for name, secret in left.items()
    )


def _parsed(keyring: Path, contents: bytes) -> dict[str, bytes]:
    found = {}
    for number, line in enumerate(contents.splitlines(), start=1):
        fields = line.partition(b"#")[0].split()
        if not fields:
            continue
        secret = _secret(fields)
        if secret is None:
            # The line itself may hold a secret: only its number is told.
            raise BadKeyring(
                str(keyring),
                why=f"line {number} is malformed",
                want="a line is a serial of 16 and a long-term key of 44 base64 characters",
            )
        found[fields[0].decode("ascii")] = secret
    return found


def _secret(fields: list[bytes]) -> bytes | None:
    """Return the long-term key in the fields of one line, None if they are not two of the right kind."""
    try:
        decoded = [base64.b64decode(each, validate=True) for each in fields]
    except (ValueError, binascii.Error):
        return None
    return decoded[1] if [len(each) for each in decoded] == [SERIAL_BYTES, SECRET_BYTES] else None


def _opened(keyring: Path) -> BinaryIO:
    # Not to wait for ever where someone has put a FIFO.
    return open(keyring, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))


def _contents(keyring: Path) -> bytes:
    """Return what is in the file, nothing if it is not there."""
    try:
        with _opened(keyring) as file:
            # Of the open file, so that nobody can put another in its place in between.
            _refuse_wider(keyring, os.fstat(file.fileno()))
            return file.read()
    except FileNotFoundError:
        return b""
    except PermissionError:
        why = f"user {os.geteuid()} may not read it"
        raise BadKeyring(str(keyring), why=why, want=_way_in(keyring)) from None
    except OSError as error:
        raise FileFailed(str(keyring), doing="read", reason=error.strerror or str(error)) from error


def _refuse_wider(keyring: Path, found: os.stat_result) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        why = "it is not a regular file"
    elif found.st_uid not in (0, os.geteuid()):
        why = f"it belongs to user {found.st_uid}"
    elif mode & (stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP):
        why = f"its mode is {mode:04o}"
    elif mode & stat.S_IRGRP and found.st_gid != _group():
        why = f"group {found.st_gid} may read it"
    else:
        return
    raise BadKeyring(str(keyring), why=why, want=_want(keyring))


def _group() -> int | None:
    try:
        return grp.getgrnam(_GROUP).gr_gid
    except KeyError:
        return None


def _want(keyring: Path) -> str:
    if _group() is None:
        return f"it must be root's, or yours, alone: 'chown root {keyring}' and 'chmod 600 {keyring}'"
    return f"'chown root:{_GROUP} {keyring}' and 'chmod 640 {keyring}'"


def _way_in(keyring: Path) -> str:
    if _group() is None:
        return "run as root"
    return f"run as root; for the service: 'chgrp {_GROUP} {keyring}' and 'chmod 640 {keyring}'"
