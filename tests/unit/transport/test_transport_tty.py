# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tty transport on real pseudo-terminals."""

import errno
import os
import select
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.support import child_after, in_child
from tests.unit.transport.served import on_a_pty
from tests.unit.transport.terminal import Pty
from virtrng import kernel
from virtrng.errors import KeyDenied, KeyFault, KeyInUse, KeyLost, KeyTrouble, NoKeyAt
from virtrng.transport import scan, tty
from virtrng.transport.tty import TtyTransport

KEY = "entropykey:/dev/tty"
ANY = bytes(range(256))


@pytest.fixture
def pty() -> Iterator[Pty]:
    pty = Pty()
    yield pty
    pty.close()


def whole(transport: TtyTransport, size: int) -> bytes:
    read = b""
    while len(read) < size:
        piece = transport.read(size, 10_000)
        assert piece
        read += piece
    return read


# --- opening


def test_every_byte_passes_as_it_is_and_none_comes_back(pty: Pty) -> None:
    transport = TtyTransport(KEY, pty.name)
    os.write(pty.master, ANY)
    assert whole(transport, len(ANY)) == ANY
    assert pty.waits() == b"", "the key would take its own frames for commands"
    transport.write(ANY, 1000)
    assert pty.waits() == ANY
    transport.close()


def test_it_is_raw_as_ekeyd_makes_it(pty: Pty) -> None:
    transport = TtyTransport(KEY, pty.name)
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = pty.settings
    assert (iflag, oflag, lflag) == (termios.IGNBRK, 0, 0)
    assert cflag & (termios.CSIZE | termios.CREAD) == termios.CS8 | termios.CREAD
    assert cflag & (termios.CLOCAL | termios.HUPCL) == termios.CLOCAL | termios.HUPCL
    assert cflag & (termios.PARENB | termios.CSTOPB | termios.CRTSCTS) == 0
    assert (ispeed, ospeed) == (termios.B115200, termios.B115200)
    assert (characters[termios.VMIN], characters[termios.VTIME]) == (1, 0)
    transport.close()


def test_what_came_before_is_dropped(pty: Pty) -> None:
    os.write(pty.master, b"* E!half a frame\n")
    transport = TtyTransport(KEY, pty.name)
    assert transport.read(64, 1) == b""
    transport.close()


def test_closing_leaves_it_as_it_was_and_again_does_nothing(pty: Pty) -> None:
    before = pty.settings
    assert before[3] & termios.ECHO
    transport = TtyTransport(KEY, pty.name)
    transport.write(b"unread", 10)
    transport.close()
    assert pty.settings == before
    assert pty.waits() in (b"", b"unread")
    transport.close()
    for use in (lambda: transport.read(64, 10), lambda: transport.write(b"R", 10)):
        with pytest.raises(KeyLost):
            use()


def test_others_are_kept_out_until_it_is_closed(pty: Pty) -> None:
    pty.name.chmod(0o666)
    attempt = lambda: os.open(pty.name, os.O_RDWR | os.O_NOCTTY)  # noqa: E731
    transport = TtyTransport(KEY, pty.name)
    assert f"[Errno {errno.EBUSY}]" in in_child(attempt, nobody=True)
    said = in_child(lambda: TtyTransport(KEY, pty.name), nobody=True)
    assert said.startswith(f"KeyInUse: {KEY} is in use by ")
    transport.close()
    assert in_child(attempt, nobody=True).isdecimal()


def test_a_pseudo_terminal_counts_as_simulated(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = TtyTransport(KEY, pty.name)
    assert (transport.key, transport.simulated) == (KEY, True)
    transport.close()
    monkeypatch.setattr(tty, "_PTY_MAJORS", frozenset())
    transport = TtyTransport(KEY, pty.name)
    assert transport.simulated is False
    transport.close()


def test_a_link_leads_there(pty: Pty, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(pty.name)
    transport = TtyTransport(KEY, link)
    os.write(pty.master, b"x")
    assert transport.read(64, 1000) == b"x"
    transport.close()


# --- who has it


def test_whoever_has_it_is_named_and_not_disturbed(pty: Pty, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(pty.name)
    before = pty.settings
    os.write(pty.master, b"for whoever has it\n")
    with child_after(lambda: os.close(pty.master)) as pid:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        assert scan.holder(str(pty.name)) == f"{name} (pid {pid})"
        with pytest.raises(KeyInUse) as caught:
            TtyTransport(KEY, link)
    assert str(caught.value) == f"{KEY} is in use by {name} (pid {pid})"
    assert pty.settings == before
    assert os.read(pty.slave, 64) == b"for whoever has it\n"


def test_who_serves_it_has_it_not(pty: Pty) -> None:
    other = Pty()
    with child_after(lambda: None):  # with both ends of both
        assert scan.holder(str(pty.name)) is None
        transport = TtyTransport(KEY, pty.name)
        transport.close()
    with child_after(lambda: os.close(pty.master)) as pid:  # and with the other's master
        assert str(scan.holder(str(pty.name))).endswith(f"(pid {pid})")
    other.close()


# --- opening that fails


def test_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(NoKeyAt) as caught:
        TtyTransport(KEY, tmp_path / "none")
    assert str(caught.value) == f"no key at {tmp_path}/none: nothing is there"


def test_what_is_no_tty() -> None:
    for file in (Path("/dev/null"), Path("/dev/zero")):
        with pytest.raises(NoKeyAt, match=f"no key at {file}: it is neither a tty nor a socket"):
            TtyTransport(KEY, file)


def test_one_that_may_not_be_opened(pty: Pty) -> None:
    pty.name.chmod(0)
    said = in_child(lambda: TtyTransport(KEY, pty.name), nobody=True)
    assert said == f"{KeyDenied.__name__}: no permission to open {KEY} at {pty.name}"


ERRORS: list[tuple[int, type[KeyTrouble], str]] = [
    (errno.ENODEV, KeyLost, f"{KEY} was lost while opening it"),
    (errno.ENXIO, KeyLost, f"{KEY} was lost while opening it"),
    (errno.EIO, KeyLost, f"{KEY} was lost while opening it"),
    (errno.EACCES, KeyDenied, f"no permission to open {KEY} at "),
    (errno.EPERM, KeyDenied, f"no permission to open {KEY} at "),
    (errno.EBUSY, KeyInUse, f"{KEY} is in use by another program"),
    (errno.ENOMEM, KeyFault, f"{KEY}: Cannot allocate memory while opening it"),
    (errno.ENOTDIR, NoKeyAt, ": Not a directory"),
]


@pytest.mark.parametrize("where", ["open", "tcgetattr", "exclusive", "tcsetattr", "tcflush"])
@pytest.mark.parametrize(("number", "kind", "sentence"), ERRORS)
def test_opening_that_fails_leaves_all_as_it_was(
    pty: Pty,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    number: int,
    kind: type[KeyTrouble],
    sentence: str,
) -> None:
    def fail(*_: object) -> None:
        error = termios.error if where.startswith("tc") else OSError
        raise error(number, os.strerror(number))

    before = pty.settings
    pty.name.chmod(0o666)
    place = {"open": (os, "open"), "exclusive": (kernel, "tty_exclusive")}.get(where, (termios, where))
    with monkeypatch.context() as patch:
        patch.setattr(*place, fail)
        with pytest.raises(kind) as caught:
            TtyTransport(KEY, pty.name)
    assert type(caught.value) is kind
    assert sentence in str(caught.value)
    assert pty.settings == before
    assert in_child(lambda: os.open(pty.name, os.O_RDWR | os.O_NOCTTY), nobody=True).isdecimal()


def test_an_interrupt_while_opening_leaves_all_as_it_was(pty: Pty, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = termios.tcflush

    def interrupted(descriptor: int, queue: int) -> None:
        if queue == termios.TCIOFLUSH:
            raise KeyboardInterrupt
        flush(descriptor, queue)

    before = pty.settings
    monkeypatch.setattr(termios, "tcflush", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TtyTransport(KEY, pty.name)
    assert pty.settings == before


# --- reading and writing


class Poll:
    """In the place of poll(2): keeps how long was waited, and lets things happen meanwhile."""

    def __init__(self, transport: TtyTransport, *meanwhile: Any) -> None:
        self.poll_ = transport._poll
        self.meanwhile = list(meanwhile)
        self.waited_ms: list[float] = []

    def modify(self, descriptor: int, events: int) -> None:
        self.poll_.modify(descriptor, events)

    def poll(self, timeout_ms: float) -> list[tuple[int, int]]:
        self.waited_ms.append(timeout_ms)
        if self.meanwhile:
            self.meanwhile.pop(0)()
        return self.poll_.poll(0)


class Clock:
    now_s = 500.0

    def __call__(self) -> float:
        return self.now_s

    def pass_ms(self, milliseconds: float) -> None:
        self.now_s += milliseconds / 1000


@pytest.mark.parametrize("timeout_ms", [1, 100, 1234, 10**12])
def test_the_timeout_reaches_the_kernel(pty: Pty, timeout_ms: int) -> None:
    transport = TtyTransport(KEY, pty.name, Clock())
    poll: Any = Poll(transport)
    transport._poll = poll
    assert transport.read(64, timeout_ms) == b""
    transport.write(b"x", timeout_ms)
    expected_ms = min(timeout_ms, 2**31 - 1)
    assert all(expected_ms <= waited_ms <= expected_ms + 1 for waited_ms in poll.waited_ms)
    assert len(poll.waited_ms) == 2
    transport.close()


def test_another_reader_that_is_faster_costs_no_time(pty: Pty) -> None:
    clock = Clock()
    transport = TtyTransport(KEY, pty.name, clock)
    ready = [(transport._descriptor(""), select.POLLIN)]
    poll: Any = Poll(transport, *[lambda: clock.pass_ms(31)] * 9)
    poll.poll = lambda timeout_ms: Poll.poll(poll, timeout_ms) or ready
    transport._poll = poll
    assert transport.read(64, 90) == b""
    assert poll.waited_ms == pytest.approx([90, 59, 28], abs=1)
    transport.close()


def test_no_more_than_asked_for_is_read(pty: Pty) -> None:
    transport = TtyTransport(KEY, pty.name)
    os.write(pty.master, b"abcdef")
    assert transport.read(4, 1000) == b"abcd"
    assert transport.read(4, 1000) == b"ef"
    assert transport.read(4, 1) == b""
    transport.close()


def test_hung_up_while_it_is_read_it_is_lost(pty: Pty) -> None:
    transport = TtyTransport(KEY, pty.name)
    poll: Any = Poll(transport, pty.hang_up)
    transport._poll = poll
    with pytest.raises(KeyLost) as caught:
        transport.read(64, 10_000)
    assert str(caught.value) == f"{KEY} was lost while being read"
    with pytest.raises(KeyLost, match="was lost while being written to"):
        transport.write(b"\x03", 10_000)
    transport.close()
    with pytest.raises(NoKeyAt, match="nothing is there"):
        TtyTransport(KEY, pty.name)


@pytest.mark.parametrize(
    ("number", "kind", "what"),
    [
        (errno.EIO, KeyLost, "was lost while"),
        (errno.ENODEV, KeyLost, "was lost while"),
        (errno.ENXIO, KeyLost, "was lost while"),
        (errno.EBUSY, KeyInUse, "is in use by another program"),
        (errno.EACCES, KeyDenied, "no permission to open"),
        (errno.EINVAL, KeyFault, ": Invalid argument while"),
    ],
)
def test_errors_in_mid_transfer(
    pty: Pty, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[KeyTrouble], what: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    transport = TtyTransport(KEY, pty.name)
    os.write(pty.master, b"x")
    with monkeypatch.context() as patch:
        patch.setattr(os, "read", fail)
        patch.setattr(os, "write", fail)
        for use in (lambda: transport.read(64, 10_000), lambda: transport.write(b"R", 10_000)):
            with pytest.raises(kind, match=what) as caught:
                use()
            assert type(caught.value) is kind
    transport.close()


def test_a_key_that_takes_nothing_is_a_fault(pty: Pty) -> None:
    transport = TtyTransport(KEY, pty.name)
    with pytest.raises(KeyFault, match=r"it took \d+ of 1000000 bytes within 1 ms$"):
        transport.write(bytes(1_000_000), 1)
    transport.close()


def test_more_than_the_terminal_holds_is_sent_in_pieces(pty: Pty) -> None:
    transport = TtyTransport(KEY, pty.name)
    data = ANY * 400
    taken = bytearray()

    def take() -> None:
        os.set_blocking(pty.master, True)
        while len(taken) < len(data):
            taken.extend(os.read(pty.master, 1000))

    taker = threading.Thread(target=take)
    taker.start()
    transport.write(data, 60_000)
    taker.join()
    assert taken == data
    transport.close()


# --- a whole session


def test_a_session_of_the_driver(tmp_path: Path) -> None:
    with on_a_pty(tmp_path / "link") as served:
        key = served.judge(TtyTransport(KEY, tmp_path / "link"), 20_000)
        assert key.simulated
        assert key.counters.telemetry.verdict == "no failure"
    # It was unplugged, and what had not been read is gone.
    with pytest.raises(KeyLost):
        key.read(10_000)
    key.close()
    with pytest.raises(NoKeyAt, match="nothing is there"):
        TtyTransport(KEY, tmp_path / "link")


def test_attached_again_it_costs_one_reset(tmp_path: Path) -> None:
    with on_a_pty(tmp_path / "link") as served:
        for _ in range(2):
            key = served.judge(TtyTransport(KEY, tmp_path / "link"), 3000)
            assert key.counters.resets == 1
            key.close()
