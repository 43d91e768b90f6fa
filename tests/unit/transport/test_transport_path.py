# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which transport a path leads to."""

import os
from pathlib import Path

import pytest

from tests.unit.support import in_child
from tests.unit.transport.served import listening, on_a_pty
from virtrng.errors import ExitCode, KeyDenied, NoKeyAt
from virtrng.transport import path
from virtrng.transport.tty import TtyTransport
from virtrng.transport.unix import UnixTransport

KEY = "entropykey:/k"


def test_a_tty(tmp_path: Path) -> None:
    with on_a_pty(tmp_path / "link"):
        assert path.way(KEY, tmp_path / "link") is TtyTransport
        transport = path.at(KEY, tmp_path / "link")
        assert isinstance(transport, TtyTransport)
        assert transport.key == KEY
        transport.close()


def test_a_socket_also_behind_a_link(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "socket")
    with listening(tmp_path / "socket"):
        assert path.way(KEY, link) is UnixTransport
        transport = path.at(KEY, link)
        assert isinstance(transport, UnixTransport)
        transport.close()


def test_neither(tmp_path: Path) -> None:
    file, fifo = tmp_path / "file", tmp_path / "fifo"
    file.touch()
    os.mkfifo(fifo)
    for one in (file, fifo, tmp_path):
        for look in (path.at, path.way):
            with pytest.raises(NoKeyAt) as caught:
                look(KEY, one)
            assert str(caught.value) == f"no key at {one}: it is neither a tty nor a socket"
            assert caught.value.exit_code is ExitCode.NO_KEY
    with pytest.raises(NoKeyAt, match="it is neither a tty nor a socket"):
        path.at(KEY, Path("/dev/null"))  # of a device only opening it tells


def test_nothing(tmp_path: Path) -> None:
    dangling, loop, file = tmp_path / "dangling", tmp_path / "loop", tmp_path / "file"
    dangling.symlink_to("/dev/pts/none")
    loop.symlink_to(loop)
    file.touch()
    for one, what in (
        (tmp_path / "none", "nothing is there"),
        (dangling, "nothing is there"),
        (loop, "Too many levels of symbolic links"),
        (file / "x", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(NoKeyAt) as caught:
            path.way(KEY, one)
        assert str(caught.value) == f"no key at {one}: {what}"


def test_where_one_may_not_look(open_path: Path) -> None:
    closed = open_path / "closed"
    closed.mkdir(mode=0)
    said = in_child(lambda: path.way(KEY, closed / "key"), nobody=True)
    closed.chmod(0o700)
    assert said == f"{KeyDenied.__name__}: no permission to open {KEY} at {closed}/key"
