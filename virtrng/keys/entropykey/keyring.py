# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file that holds the long-term keys, in the format of ekeyd's.

One key a line: the serial's 16 and the long-term key's 44 base64 characters,
with blanks between them; "#" begins a comment.

Source: ekeyd 1.1.5, host/keydb.c and the keyring that its ekey-setkey writes.
"""

import base64
import binascii
import grp
import os
import stat
from pathlib import Path

from virtrng.errors import BadKeyring, FileFailed, NoLongTermKey
from virtrng.keys.entropykey.session import SECRET_BYTES, SERIAL_BYTES

_GROUP = "virtrng"


def long_term_key(keyring: Path, serial: str) -> bytes:
    """Return the 32-byte long-term key of the key called `serial`; of several lines the last counts.

    The file must belong to root or to the user who reads it, and to nobody else
    but the group virtrng, which may read it. Raises NoLongTermKey if the file or
    the line is not there, BadKeyring if any line is malformed or the file is
    open to more people, FileFailed if it cannot be read for another reason.
    """
    found = None
    for number, line in enumerate(_contents(keyring, serial).split(b"\n"), start=1):
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
        if fields[0] == serial.encode():
            found = secret
    if found is None:
        raise NoLongTermKey(serial, str(keyring))
    return found


def _secret(fields: list[bytes]) -> bytes | None:
    """Return the long-term key in the fields of one line, None if they are not two of the right kind."""
    try:
        decoded = [base64.b64decode(each, validate=True) for each in fields]
    except (ValueError, binascii.Error):
        return None
    return decoded[1] if [len(each) for each in decoded] == [SERIAL_BYTES, SECRET_BYTES] else None


def _contents(keyring: Path, serial: str) -> bytes:
    try:
        # Not to wait for ever where someone has put a FIFO.
        descriptor = os.open(keyring, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            # Of the open file, so that nobody can put another in its place in between.
            _refuse_wider(keyring, os.fstat(descriptor))
            return file.read()
    except FileNotFoundError:
        raise NoLongTermKey(serial, str(keyring)) from None
    except PermissionError:
        why = f"user {os.geteuid()} may not read it"
        raise BadKeyring(str(keyring), why=why, want=_want(keyring)) from None
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
        return f"as its owner or as root: 'chmod 600 {keyring}'"
    return f"'chown root:{_GROUP} {keyring}' and 'chmod 640 {keyring}'"
