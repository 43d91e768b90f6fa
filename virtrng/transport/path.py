# SPDX-License-Identifier: LGPL-2.1-or-later
"""A key that is named by a path: whichever way there is to it."""

import os
import stat
from pathlib import Path

from virtrng.errors import KeyDenied, NoKeyAt
from virtrng.transport.base import Transport
from virtrng.transport.stream import nothing_at
from virtrng.transport.tty import TtyTransport
from virtrng.transport.unix import UnixTransport


def at(key: str, path: Path) -> Transport:
    """Open the tty or the UNIX socket at `path`; `key` is the key's name for messages.

    Raises what way() raises, and what the transport does.
    """
    return way(key, path)(key, path)


def way(key: str, path: Path) -> type[TtyTransport] | type[UnixTransport]:
    """Say by which transport the key at `path` is reached; opens nothing. Raises NoKeyAt or KeyDenied."""
    try:
        mode = os.stat(path).st_mode
    except PermissionError as error:
        raise KeyDenied(key, str(path)) from error
    except OSError as error:
        raise nothing_at(path, error) from error
    if stat.S_ISSOCK(mode):
        return UnixTransport
    if stat.S_ISCHR(mode):
        return TtyTransport
    raise NoKeyAt(str(path), "it is neither a tty nor a socket")
