# SPDX-License-Identifier: LGPL-2.1-or-later
"""A feeder and a watcher that Prometheus can ask, and what asks them."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse

from virtrng.scrape import Answer, Listener
from virtrng.status import FeederStatus, KernelStatus, KeyStatus
from virtrng.watch_status import Latency, WatchStatus

PATIENCE_S = 60
NOW_S = 10_000.0
KEY = KeyStatus(
    "entropykey", 'a/b+"', "ok", simulated=False, bytes_read=10_000, blocks_tested=4, blocks_failed=1,
    frames_bad=2, sessions=5, last_fault=None, failures={"runs": 2, "poker": 0}, failure_rate=0.0008,
    quarantines=1,
    telemetry={"temperature_k": 314.3, "supply_v": 3.25, "fips_blocks_per_s": 1.6, "fips_blocks": 7},
)  # fmt: skip
NAME = 'entropykey:serial=a/b+"'
FED = FeederStatus(1.0, 42, (KEY,), KernelStatus(3, 768, 7500, 1.7e9, NOW_S - 5, 256))
WATCHING = WatchStatus(
    1.0, 43, "qemu:///system", guests={"managed": 37, "before": 2, "failed": 1}, without_device=3, changes=12,
    failures=4, last_pass_boottime_s=NOW_S - 30, latency=Latency((1, 0, 2, 0, 0, 0, 0, 0, 0, 3), 100.5),
)  # fmt: skip
OPEN_METRICS = "application/openmetrics-text; version=0.0.1; charset=utf-8"


@contextmanager
def listening(answer: Answer) -> Iterator[tuple[str, int]]:
    """Serve on a port of the kernel's choice, as a socket unit hands it over; gives the address."""
    ours = socket.create_server(("127.0.0.1", 0), backlog=64)
    address = ours.getsockname()
    listener = Listener(ours, answer)
    try:
        yield address
    finally:
        listener.close()
        assert "metrics" not in {thread.name for thread in threading.enumerate()}


def ask(
    address: tuple[str, int], path: str = "/metrics", method: str = "GET", **headers: str
) -> HTTPResponse:
    with closing(HTTPConnection(*address, timeout=PATIENCE_S)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        answer.body = answer.read()  # type: ignore[attr-defined]
        return answer


def scrape(address: tuple[str, int], **headers: str) -> str:
    answer = ask(address, **headers)
    assert answer.status == 200
    return str(answer.body.decode())  # type: ignore[attr-defined]
