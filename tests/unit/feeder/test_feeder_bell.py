# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bell: rung by threads, by signal handlers, by what can be read."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from virtrng.feeder.bell import Bell

FOR_EVER_S = 100.0


@pytest.fixture
def bell() -> Iterator[Bell]:
    with closing(Bell()) as bell:
        yield bell


def waited_s(bell: Bell, timeout_s: float = FOR_EVER_S) -> float:
    began_s = time.monotonic()
    bell.wait(timeout_s)
    return time.monotonic() - began_s


def test_what_rings_before_it_waits_is_not_lost(bell: Bell) -> None:
    bell.ring()
    bell.ring()
    assert waited_s(bell) < FOR_EVER_S
    assert waited_s(bell, 0.01) >= 0.01, "it was rung for one wait"
    assert not bell.stopping


def test_another_thread_rings_it(bell: Bell) -> None:
    thread = threading.Thread(target=bell.ring)
    thread.start()
    assert waited_s(bell) < FOR_EVER_S
    thread.join()


def test_stop_rings_too_and_stays(bell: Bell) -> None:
    bell.stop()
    assert waited_s(bell) < FOR_EVER_S
    assert bell.stopping


def test_what_can_be_read_wakes_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(Bell(ours)) as bell:
        theirs.send(b"x")
        assert waited_s(bell) < FOR_EVER_S
        assert ours.recv(1) == b"x", "it takes nothing away"


def test_it_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    Bell().close()
    assert os.listdir("/proc/self/fd") == before


def test_a_signal_at_any_moment_of_waiting_ends_it(bell: Bell) -> None:
    # With an Event of threading's this hangs: its lock is held while the handler asks for it.
    moments = 0

    def trace(frame: object, event: str, _argument: object) -> object:
        nonlocal moments
        if event == "line":
            moments += 1
            signal.raise_signal(signal.SIGUSR1)
        return trace

    old_handler = signal.signal(signal.SIGUSR1, lambda *_: bell.stop())
    old_trace = sys.gettrace()
    try:
        sys.settrace(trace)  # type: ignore[arg-type]
        bell.wait(FOR_EVER_S)
    finally:
        sys.settrace(old_trace)
        signal.signal(signal.SIGUSR1, old_handler)
    assert bell.stopping
    assert moments >= 2


def test_a_signal_while_it_waits_ends_it(bell: Bell) -> None:
    old_handler = signal.signal(signal.SIGALRM, lambda *_: bell.stop())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert waited_s(bell) < FOR_EVER_S
    finally:
        signal.signal(signal.SIGALRM, old_handler)
    assert bell.stopping
