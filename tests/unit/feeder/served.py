# SPDX-License-Identifier: LGPL-2.1-or-later
"""Both ends of an injector: in one process with a thread, or in two with a kernel that keeps its seeds."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from virtrng import kernel
from virtrng.feeder.injector import Injector
from virtrng.feeder.injector_process import Pace, serve

NO_PROCESS = 2**22 + 1  # above the largest pid_max (proc(5))


class Hurry(Pace):
    """Lets everything go at once, and keeps the intervals that it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.intervals_s: list[float] = []

    def wait(self, interval_s: float) -> None:
        self.intervals_s.append(interval_s)


def socketpair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@contextmanager
def served(*, reseed: bool = True, pace: Pace | None = None) -> Iterator[tuple[Injector, socket.socket]]:
    """Give an injector and its socket, the other end of which a thread serves; it has not begun."""
    ours, its = socketpair()
    thread = Thread(target=serve, args=(its.fileno(), pace or Hurry()), kwargs={"reseed": reseed})
    thread.start()
    injector = Injector(ours, NO_PROCESS)
    try:
        yield injector, ours
    finally:
        injector.close()
        thread.join()
        its.close()


@contextmanager
def in_two_processes(recorded: Path) -> Iterator[Injector]:
    """Give an injector whose other end is a child, and whose kernel appends each seed to `recorded`."""
    ours, its = socketpair()
    pid = fork(lambda: serve_recording(its, ours, recorded))
    its.close()
    injector = Injector(ours, pid)
    try:
        yield injector
    finally:
        injector.close()


def serve_recording(its: socket.socket, ours: socket.socket, recorded: Path) -> None:
    ours.close()
    file = os.open(recorded, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def record(_fd: int, content: bytes, _bits: int) -> None:
        os.write(file, bytes(content))

    kernel.add_entropy = record  # type: ignore[assignment]
    kernel.check_access = lambda _fd: None  # type: ignore[assignment]
    serve(its.fileno(), Hurry(), reseed=False)


def fork(act: Callable[[], object]) -> int:
    """Return the process id of a child that does `act` and ends."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(0)
    return pid


def seeds_in(recorded: Path) -> list[bytes]:
    """Return the seeds that were appended to a file, of 32 bytes each."""
    content = recorded.read_bytes() if recorded.exists() else b""
    return [content[at : at + 32] for at in range(0, len(content), 32)]


def wait_for(happened: Callable[[], object], limit_s: float = 30.0) -> None:
    """Return when it has happened; fail when it never does."""
    ends_s = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < ends_s, "it never happened"
        os.sched_yield()
