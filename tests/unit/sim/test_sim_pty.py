# SPDX-License-Identifier: LGPL-2.1-or-later
"""A key behind a pseudo-terminal, in this process: the link, the terminal's settings, the serving."""

import os
import select
import socket
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from virtrng.errors import FileFailed, PlaceTaken
from virtrng.sim import pty

PATIENCE_S = 60.0


class Firmware:
    """A key that says and does nothing, until it is unplugged."""

    serial = "none"
    next_due_s = 1e9
    unplugged = False

    def plug_in(self, now_s: float) -> None:
        raise AssertionError(now_s)

    def advance(self, now_s: float) -> None:
        pass

    def take(self, size: int) -> bytes:
        return b""

    def receive(self, packet: bytes) -> None:
        raise AssertionError(packet)


class Chatterbox(Firmware):
    """It always has something to say; its host looks in now and then, and unplugs it when it has enough."""

    next_due_s = 0.0

    def __init__(self, link: Path, enough_bytes: int) -> None:
        self.link = link
        self.enough_bytes = enough_bytes
        self.said = b""
        self.read = b""
        self.visits = 0

    def advance(self, now_s: float) -> None:
        with opened(self.link) as host:
            self.visits += 1
            self.read += drained(host)
        self.unplugged = len(self.read) >= self.enough_bytes

    def take(self, size: int) -> bytes:
        first = len(self.said) // 8
        piece = b"".join(b"%08d" % number for number in range(first, first + size // 8))
        self.said += piece
        return piece


class Listener(Firmware):
    """It is unplugged when it has heard so many bytes."""

    def __init__(self, enough_bytes: int) -> None:
        self.enough_bytes = enough_bytes
        self.heard: list[bytes] = []

    def receive(self, packet: bytes) -> None:
        self.heard.append(packet)
        self.unplugged = sum(map(len, self.heard)) >= self.enough_bytes


@contextmanager
def opened(link: Path) -> Iterator[int]:
    """Open the host's end by the link."""
    descriptor = os.open(link, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def stop() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def drained(descriptor: int) -> bytes:
    """Return what waits there."""
    found = b""
    while select.select([descriptor], [], [], 0)[0]:
        found += os.read(descriptor, 1 << 16)
    return found


def read_whole(descriptor: int, size: int) -> bytes:
    """Return so many bytes; fails when a minute brings none."""
    found = b""
    while len(found) < size:
        assert select.select([descriptor], [], [], PATIENCE_S)[0]
        found += os.read(descriptor, size - len(found))
    return found


def test_the_link_is_there_as_long_as_the_terminal(tmp_path: Path) -> None:
    link = tmp_path / "key"
    with pty.terminal(link) as at:
        assert os.readlink(link) == at.name
        assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert list(tmp_path.iterdir()) == []


def test_it_is_raw_and_does_not_echo_before_anybody_has_opened_it(tmp_path: Path) -> None:
    with pty.terminal(tmp_path / "key") as at, opened(at.link) as host:
        iflag, oflag, cflag, lflag, *_ = termios.tcgetattr(host)
        assert (iflag, oflag, lflag) == (0, 0, 0)
        assert cflag & termios.CSIZE == termios.CS8
        everything = bytes(range(256))
        os.write(host, everything)
        assert read_whole(at.master, 256) == everything
        os.write(at.master, everything)
        assert read_whole(host, 256) == everything
        assert select.select([at.master], [], [], 0)[0] == [], "an echo"


def test_whoever_has_it_open_sees_it_hang_up(tmp_path: Path) -> None:
    with pty.terminal(tmp_path / "key") as at:
        host = os.open(at.link, os.O_RDWR | os.O_NOCTTY)
    try:
        assert os.read(host, 1) == b""
        with pytest.raises(OSError, match="Input/output error"):
            os.write(host, b"\x03")
    finally:
        os.close(host)


def test_a_link_that_leads_nowhere_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / "key"
    link.symlink_to(tmp_path / "gone")
    with pty.terminal(link) as at:
        assert os.readlink(link) == at.name
        assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_link_in_use_is_not_taken(tmp_path: Path) -> None:
    link = tmp_path / "key"
    with pty.terminal(link) as first:
        with pytest.raises(PlaceTaken, match=f"it leads to {first.name}"), pty.terminal(link):
            pass
        assert os.readlink(link) == first.name


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_no_link_is_left_alone(kind: str, tmp_path: Path) -> None:
    link = tmp_path / "key"
    link.write_text("mine") if kind == "file" else link.mkdir()
    said = "key cannot hold a simulated key: it is not a link of virtrng's"
    with pytest.raises(PlaceTaken, match=said), pty.terminal(link):
        pass
    assert not link.is_symlink()


def test_no_directory_for_the_link(tmp_path: Path) -> None:
    link = tmp_path / "none" / "key"
    with pytest.raises(FileFailed, match=f"cannot create {link}: No such file"), pty.terminal(link):
        pass


@pytest.mark.parametrize("then", ["removed", "file", "link"])
def test_a_link_that_has_become_another_s_is_left_alone(then: str, tmp_path: Path) -> None:
    link = tmp_path / "key"
    with pty.terminal(link):
        link.unlink()
        if then == "file":
            link.write_text("mine")
        elif then == "link":
            link.symlink_to("/dev/null")
    assert os.path.lexists(link) is (then != "removed")


def test_serving_ends_when_told(tmp_path: Path, stop: tuple[int, int]) -> None:
    os.write(stop[1], b"x")
    with pty.terminal(tmp_path / "key") as at:
        pty.serve(Firmware(), at, stop[0], clock=lambda: 0.0)


def test_serving_ends_when_the_key_is_unplugged(tmp_path: Path, stop: tuple[int, int]) -> None:
    key = Firmware()
    key.unplugged = True
    with pty.terminal(tmp_path / "key") as at:
        pty.serve(key, at, stop[0], clock=lambda: 0.0)


def test_what_the_host_writes_comes_in_packets(tmp_path: Path, stop: tuple[int, int]) -> None:
    said = bytes(range(150))
    key = Listener(len(said))
    with pty.terminal(tmp_path / "key") as at, opened(at.link) as host:
        os.write(host, said)
        pty.serve(key, at, stop[0], clock=lambda: 0.0)
    assert b"".join(key.heard) == said
    assert max(map(len, key.heard)) <= 64


def test_a_host_that_comes_and_goes_and_reads_too_slowly_gets_all_in_order(
    tmp_path: Path, stop: tuple[int, int]
) -> None:
    with pty.terminal(tmp_path / "key") as at:
        key = Chatterbox(at.link, enough_bytes=50_000)
        pty.serve(key, at, stop[0], clock=lambda: 0.0)
    assert key.visits > 2
    assert len(key.read) >= 50_000
    assert key.said.startswith(key.read)


def test_a_terminal_of_no_use_is_told(tmp_path: Path, stop: tuple[int, int]) -> None:
    key = Firmware()
    key.take = bytes  # type: ignore[method-assign,assignment]
    at = pty.Terminal(stop[0], "open for reading alone", tmp_path / "key")
    with pytest.raises(FileFailed, match=f"cannot serve {tmp_path}/key: Bad file descriptor"):
        pty.serve(key, at, stop[0], clock=lambda: 0.0)


@pytest.mark.parametrize("speaks", [False, True])
def test_a_host_that_has_gone_from_a_socket_ends_it(
    speaks: bool,  # noqa: FBT001  a parameter of pytest's
    tmp_path: Path,
    stop: tuple[int, int],
) -> None:
    ours, hosts = socket.socketpair()
    hosts.close()
    key = Firmware()
    if speaks:
        key.take = bytes  # type: ignore[method-assign,assignment]
    with ours:
        pty.serve(key, pty.Terminal(ours.fileno(), "", tmp_path), stop[0], clock=lambda: 0.0)
