# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the service manager is told, and what it hands over."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.support import ROOT
from virtrng import service

FIRST_FD = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Give the end of NOTIFY_SOCKET at which the service manager listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(0)  # a datagram is there as soon as it was sent
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


@pytest.mark.parametrize(
    ("tell", "told"),
    [
        (service.ready, "READY=1"),
        (service.stopping, "STOPPING=1"),
        (service.alive, "WATCHDOG=1"),
        (lambda: service.says("fed by A"), "STATUS=fed by A"),
        # A line of its own would be a statement of its own.
        (lambda: service.says(" none:\n  READY=1\n"), "STATUS=none: READY=1"),
        (lambda: service.says("41 °C"), "STATUS=41 °C"),
    ],
)
def test_it_is_told(manager: socket.socket, tell: Callable[[], None], told: str) -> None:
    tell()
    assert manager.recv(4096).decode() == told
    tell()
    assert manager.recv(4096).decode() == told, "what it needs stays in the environment"


def test_outside_a_service_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"):
        monkeypatch.delenv(name, raising=False)
    service.ready()
    service.says("nothing")
    assert service.watchdog_s() is None
    assert service.inherited("metrics") is None


def test_a_manager_that_has_gone_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    service.alive()
    assert "cannot tell the service manager WATCHDOG=1" in caplog.text


@pytest.mark.parametrize(
    ("microseconds", "whose", "seconds"),
    [
        ("30000000", os.getpid, 30.0),
        ("500000", None, 0.5),
        ("30000000", os.getppid, None),
        ("0", None, None),
        ("", None, None),
        ("soon", None, None),
        ("-1", None, None),
    ],
)
def test_the_watchdog(
    monkeypatch: pytest.MonkeyPatch,
    microseconds: str,
    whose: Callable[[], int] | None,
    seconds: float | None,
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if whose is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(whose()))
    assert service.watchdog_s() == seconds


def run(
    code: str, *, environment: dict[str, str], fds: tuple[int, ...] = (), stderr: int | None = None
) -> str:
    """Run Python code in a process that is handed descriptors as systemd does it; return its stdout."""
    hand_over = "".join(f"os.dup2({fd}, {number}); " for number, fd in enumerate(fds, FIRST_FD))
    program = f"import os; {hand_over}os.environ['LISTEN_PID'] = str(os.getpid())\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=os.environ | environment,
        pass_fds=fds,
        cwd=ROOT,
        check=True,
    )
    return done.stdout.decode()


ASK = """
from virtrng import service
for name in ("metrics", "other"):
    found = service.inherited(name)
    print(name, found and found.getsockname())
"""


def test_a_socket_is_inherited_by_its_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as metrics, socket.create_server(("127.0.0.1", 0)) as other:
        names = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "else:metrics"}
        # Above those that they are to become.
        fds = tuple(os.dup(one.fileno()) for one in (other, metrics))
        try:
            said = run(ASK, environment=names, fds=fds)
        finally:
            for fd in fds:
                os.close(fd)
        assert said.splitlines() == [f"metrics {metrics.getsockname()}", "other None"]


def test_what_is_not_a_listening_stream_socket_is_not_taken() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, Path("/dev/null").open() as file:
        for one in (datagrams.fileno(), file.fileno()):
            fd = os.dup(one)
            try:
                environment = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "metrics"}
                said = run(ASK, environment=environment, fds=(fd,))
            finally:
                os.close(fd)
            assert said.splitlines() == ["metrics None", "other None"]


LOG = """
import logging
from virtrng import service
logging.basicConfig(format="%(message)s", level=logging.DEBUG)
service.log_with_priorities()
for level in (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG):
    logging.getLogger("virtrng").log(level, "%s\\n  what to do", logging.getLevelName(level).lower())
"""


@pytest.mark.parametrize("to_the_journal", [True, False])
def test_the_journal_is_told_how_much_each_line_matters(tmp_path: Path, *, to_the_journal: bool) -> None:
    with (tmp_path / "stderr").open("w+") as stderr:
        found = os.fstat(stderr.fileno())
        inode = found.st_ino if to_the_journal else found.st_ino + 1
        run(LOG, environment={"JOURNAL_STREAM": f"{found.st_dev}:{inode}"}, stderr=stderr.fileno())
        said = (tmp_path / "stderr").read_text().splitlines()
    levels = {"critical": 3, "error": 3, "warning": 4, "info": 6, "debug": 7}
    assert said == [
        f"<{number}>{text}" if to_the_journal else text
        for level, number in levels.items()
        for text in (level, "  what to do")
    ]
