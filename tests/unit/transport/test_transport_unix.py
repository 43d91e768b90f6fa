# SPDX-License-Identifier: LGPL-2.1-or-later
"""The socket transport on real UNIX sockets."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.support import in_child
from tests.unit.transport.served import listening, to_the_client_of
from virtrng.errors import KeyDenied, KeyFault, KeyInUse, KeyLost, NoKeyAt
from virtrng.transport.unix import UnixTransport

KEY = "entropykey:/run/key"


class Connected:
    """A transport, and the socket at the other end of it."""

    def __init__(self, path: Path, listener: socket.socket) -> None:
        self.transport = UnixTransport(KEY, path)
        self.server, _ = listener.accept()

    def close(self) -> None:
        self.transport.close()
        self.server.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "key"


@pytest.fixture
def listener(path: Path) -> Iterator[socket.socket]:
    with listening(path) as listener:
        yield listener


@pytest.fixture
def both(path: Path, listener: socket.socket) -> Iterator[Connected]:
    both = Connected(path, listener)
    yield both
    both.close()


def test_bytes_pass_both_ways(both: Connected) -> None:
    both.server.sendall(bytes(range(256)))
    assert both.transport.read(200, 10_000) == bytes(range(200))
    assert both.transport.read(200, 10_000) == bytes(range(200, 256))
    assert both.transport.read(200, 1) == b""
    both.transport.write(b"Knonce.", 10_000)
    assert both.server.recv(100) == b"Knonce."


def test_it_is_what_the_user_named_and_not_simulated(both: Connected) -> None:
    assert (both.transport.key, both.transport.simulated) == (KEY, False)


def test_closed_it_is_lost_and_again_does_nothing(both: Connected) -> None:
    both.transport.close()
    assert both.server.recv(1) == b""
    both.transport.close()
    for use in (lambda: both.transport.read(64, 10), lambda: both.transport.write(b"R", 10)):
        with pytest.raises(KeyLost):
            use()


def test_the_end_of_what_has_spoken_is_a_key_that_was_lost(both: Connected) -> None:
    both.server.sendall(b"x")
    both.server.close()
    assert both.transport.read(64, 10_000) == b"x"
    with pytest.raises(KeyLost, match=f"^{KEY} was lost while being read$"):
        both.transport.read(64, 10_000)
    with pytest.raises(KeyLost, match=f"^{KEY} was lost while being written to$"):
        both.transport.write(b"R", 10_000)


def test_a_reset_is_a_key_that_was_lost(both: Connected) -> None:
    both.server.sendall(b"x")
    assert both.transport.read(64, 10_000) == b"x"
    both.transport.write(b"unread, so that closing resets", 10_000)
    both.server.close()
    with pytest.raises(KeyLost):
        both.transport.read(64, 10_000)


READ_OR_WRITE: list[Callable[[UnixTransport], object]] = [
    lambda transport: transport.read(64, 10_000),
    lambda transport: transport.write(b"\x03", 10_000),
]


@pytest.mark.parametrize("use", READ_OR_WRITE, ids=["read", "write"])
def test_closed_before_the_first_byte_it_has_another_client(
    both: Connected, use: Callable[[UnixTransport], object]
) -> None:
    both.server.close()
    with pytest.raises(KeyInUse, match=f"^{KEY} is in use by another program$"):
        use(both.transport)


def test_a_server_that_takes_nothing_is_a_fault(both: Connected) -> None:
    with pytest.raises(KeyFault, match=r"it took \d+ of 10000000 bytes within 1 ms$"):
        both.transport.write(bytes(10_000_000), 1)


# --- opening that fails


def test_nothing_is_there(path: Path) -> None:
    with pytest.raises(NoKeyAt, match=f"^no key at {path}: nothing is there$"):
        UnixTransport(KEY, path)


def test_a_socket_that_nobody_serves(path: Path) -> None:
    with listening(path):
        pass
    with pytest.raises(NoKeyAt, match=f"^no key at {path}: nobody serves this socket$"):
        UnixTransport(KEY, path)


def test_a_socket_of_datagrams(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        with pytest.raises(NoKeyAt, match="it is not a stream socket"):
            UnixTransport(KEY, path)


def test_a_name_that_no_socket_can_have(tmp_path: Path) -> None:
    with pytest.raises(NoKeyAt, match="its name is too long for a socket"):
        UnixTransport(KEY, tmp_path / ("x" * 120))


def test_a_server_that_is_busy_is_not_waited_for(path: Path) -> None:
    with listening(path, backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(path))
        with pytest.raises(KeyInUse, match="is in use by another program"):
            UnixTransport(KEY, path)


def test_one_that_may_not_be_opened(open_path: Path) -> None:
    path = open_path / "key"
    with listening(path):
        path.chmod(0)
        said = in_child(lambda: UnixTransport(KEY, path), nobody=True)
    assert said == f"{KeyDenied.__name__}: no permission to open {KEY} at {path}"


def test_what_the_system_refuses_leaves_nothing_open(
    path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(12, os.strerror(12))

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        with pytest.raises(KeyFault, match="Cannot allocate memory while opening it"):
            UnixTransport(KEY, path)
    assert listener.fileno() >= 0


# --- a whole session


def test_a_session_of_the_driver(path: Path, listener: socket.socket) -> None:
    transport = UnixTransport(KEY, path)
    with to_the_client_of(listener, path) as served:
        key = served.judge(transport, 20_000)
        assert not key.simulated
    lost = False
    while not lost:  # what had been sent is still there
        try:
            key.read(10_000)
        except KeyLost:
            lost = True
    key.close()
