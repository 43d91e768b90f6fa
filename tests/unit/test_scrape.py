# SPDX-License-Identifier: LGPL-2.1-or-later
"""No scraper can do anything to who is asked."""

import errno
import os
import socket
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest

from tests.unit.scraper import OPEN_METRICS, PATIENCE_S, ask, listening, scrape
from virtrng import scrape as served
from virtrng.config import Listen
from virtrng.errors import MetricsUnavailable
from virtrng.scrape import Listener

BODY = b"virtrng_build_info 1.0\n" * 100


def answer(_accepted: str) -> tuple[str, bytes]:
    return "text/plain", BODY


def test_other_paths_and_methods() -> None:
    with listening(answer) as address:
        assert ask(address, "/").status == 404
        assert ask(address, "/metrics?name[]=x").status == 200
        assert ask(address, method="POST").status == 501
        head = ask(address, method="HEAD")
    assert (head.status, head.body) == (200, b"")  # type: ignore[attr-defined]
    assert (head.getheader("Content-Length"), head.getheader("Content-Type")) == (
        str(len(BODY)),
        "text/plain",
    )


def test_a_listener_at_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = Listen("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(MetricsUnavailable) as refused:
            Listener(where, answer)
    assert str(refused.value) == f"cannot serve metrics at {where}: Address already in use"
    listener = Listener(where, answer)  # it is free now
    try:
        assert ask((where.host, where.port)).status == 200
    finally:
        listener.close()
    with pytest.raises(MetricsUnavailable):
        Listener(Listen("2001:db8::1", 9877), answer)  # documentation's: no host has it


def test_what_a_scraper_accepts_is_told() -> None:
    told = []

    def note(accepted: str) -> tuple[str, bytes]:
        told.append(accepted)
        return answer(accepted)

    with listening(note) as address:
        assert scrape(address, Accept=OPEN_METRICS) == BODY.decode()
        assert scrape(address) == BODY.decode()
    assert told == [OPEN_METRICS, ""]


def test_it_is_served_while_a_block_runs_or_not_at_all(caplog: pytest.LogCaptureFixture) -> None:
    ours = socket.create_server(("127.0.0.1", 0))
    where = Listen("127.0.0.1", ours.getsockname()[1])
    with served.serving(ours, answer):
        assert ask((where.host, where.port)).status == 200
        with served.serving(where, answer):
            assert ask((where.host, where.port)).status == 200
    (told,) = caplog.messages
    assert told.splitlines() == [
        f"cannot serve metrics at {where}: Address already in use; the service goes on without them",
        f"  {MetricsUnavailable.hint}",
    ]
    with pytest.raises(ConnectionRefusedError):
        ask((where.host, where.port))


def test_a_request_in_pieces() -> None:
    with listening(answer) as address, socket.create_connection(address, timeout=PATIENCE_S) as scraper:
        for piece in (b"GET /met", b"rics HTTP/1.0\r\n", b"\r\n"):
            scraper.sendall(piece)
        assert scraper.recv(12) == b"HTTP/1.0 200"


@pytest.mark.parametrize(
    "request_text", [b"\r\n\r\n", b"nonsense\r\n\r\n", b"\xff\xfe\n\n", b"GET /metrics HTTP/9\r\n\r\n"]
)
def test_what_is_no_request(request_text: bytes) -> None:
    with listening(answer) as address:
        with socket.create_connection(address, timeout=PATIENCE_S) as scraper:
            scraper.sendall(request_text)
            while scraper.recv(65536):
                pass
        assert ask(address).status == 200


def send_for_ever(scraper: socket.socket) -> None:
    while True:
        scraper.sendall(b"x" * 4096)


def test_a_request_without_an_end_is_cut_off() -> None:
    with listening(answer) as address:
        endless = pytest.raises((ConnectionResetError, BrokenPipeError))
        with socket.create_connection(address, timeout=PATIENCE_S) as scraper, endless:
            send_for_ever(scraper)
        assert ask(address).status == 200


def test_hung_scrapers_keep_out_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "CONNECTION_S", 0.2)
    with listening(answer) as address, ExitStack() as hung:
        for _ in range(served.CONNECTIONS_MAX + 2):
            hung.enter_context(socket.create_connection(address, timeout=PATIENCE_S))
        assert ask(address).status == 200


def test_a_scraper_that_comes_after_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    with listening(answer) as address:
        assert ask(address).status == 200
        now_s += 10_000  # while it waits for whatever comes
        assert ask(address).status == 200


def test_hung_scrapers_do_not_delay_the_end() -> None:
    scrapers = served.CONNECTIONS_MAX + 4  # these wait in the kernel
    with listening(answer) as address:  # which asserts that the thread has ended
        before = len(os.listdir("/proc/self/fd"))
        hung = [socket.create_connection(address, timeout=PATIENCE_S) for _ in range(scrapers)]
        assert len(os.listdir("/proc/self/fd")) <= before + scrapers + served.CONNECTIONS_MAX
    for one in hung:
        one.close()


def test_a_scraper_that_does_not_take_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is longer than the kernel's buffers; others are served meanwhile."""
    with listening(lambda _: ("text/plain", BODY * 5000)) as address:
        with socket.create_connection(address, timeout=PATIENCE_S) as slow:
            slow.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert len(scrape(address)) > 10_000_000
            taken = 0
            while piece := slow.recv(1 << 20):
                taken += len(piece)
        assert taken > 10_000_000
        with socket.create_connection(address, timeout=PATIENCE_S) as gone:
            gone.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert ask(address, "/").status == 404


class NoDescriptors(socket.socket):
    """A listening socket of a process whose descriptor table is full for the first accepts."""

    refusals: list[int]

    def accept(self) -> tuple[socket.socket, Any]:
        if self.refusals:
            raise OSError(self.refusals.pop(), "refused")
        return super().accept()


def test_a_full_descriptor_table_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "ACCEPT_PAUSE_S", 0.01)
    ours = NoDescriptors(socket.AF_INET, socket.SOCK_STREAM)
    ours.refusals = [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ECONNABORTED, errno.EAGAIN]
    ours.bind(("127.0.0.1", 0))
    ours.listen(1)
    listener = Listener(ours, answer)
    try:
        assert ask(ours.getsockname()).status == 200
    finally:
        listener.close()
    assert ours.refusals == []


def test_a_bug_of_ours_costs_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    bugs = [ValueError("a bug")]

    def fail_once(accepted: str) -> tuple[str, bytes]:
        if bugs:
            raise bugs.pop()
        return answer(accepted)

    with listening(fail_once) as address:
        assert ask(address).status == 500
        assert ask(address).status == 200
    assert caplog.messages == ["the metrics cannot be told; the service goes on"]


def test_a_bug_in_serving_costs_the_metrics_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(served, "_Request", fail)
    with listening(answer) as address, pytest.raises(OSError):  # noqa: PT011
        ask(address)
    assert caplog.messages == ["metrics are no longer served; the service goes on"]


def test_an_answer_that_hangs_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "CLOSE_S", 0.01)
    asked, go_on = threading.Event(), threading.Event()

    def hang(accepted: str) -> tuple[str, bytes]:
        asked.set()
        go_on.wait(PATIENCE_S)
        return answer(accepted)

    ours = socket.create_server(("127.0.0.1", 0))
    listener = Listener(ours, hang)
    with socket.create_connection(ours.getsockname(), timeout=PATIENCE_S) as scraper:
        scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert asked.wait(PATIENCE_S)
        listener.close()
        assert not go_on.is_set()
        go_on.set()
        while scraper.recv(65536):
            pass
    monkeypatch.setattr(served, "CLOSE_S", PATIENCE_S)
    listener.close()
