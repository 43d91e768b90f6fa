# SPDX-License-Identifier: LGPL-2.1-or-later
"""A simulated key behind a real pseudo-terminal or a real socket, in a thread that ends with its block."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from virtrng.errors import FileFailed
from virtrng.keys.entropykey import EntropyKey
from virtrng.sim import pty
from virtrng.sim.entropykey import SERIAL, SimulatedEntropyKey, seeded_noise
from virtrng.sim.firmware import Firmware
from virtrng.transport.base import Transport

LONG_TERM_KEY = bytes(range(100, 132))
KEYRING_LINE = f"{SERIAL} ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoM=\n"


class Served:
    """A key that was just plugged in, fast, and what it encrypts."""

    def __init__(self, rate_bytes_per_s: float = 200_000.0) -> None:
        self.encrypted = b""
        self._noise = seeded_noise(bytes(32))
        self.firmware = SimulatedEntropyKey(
            long_term_key=LONG_TERM_KEY,
            now_s=time.monotonic(),
            rate_bytes_per_s=rate_bytes_per_s,
            noise=self._encrypt,
        )

    def _encrypt(self, size: int) -> bytes:
        plain = self._noise(size)
        self.encrypted += plain
        return plain

    def judge(self, transport: Transport, size_bytes: int) -> EntropyKey:
        """Have the driver read so much through `transport`: what was encrypted, in order, without a gap."""
        key = EntropyKey(transport, lambda _serial: LONG_TERM_KEY, min_entropy=0.5)
        key.start()
        assert key.serial == SERIAL
        emitted = b""
        while len(emitted) < size_bytes:
            noise = key.read(10_000)
            assert noise is not None
            emitted += noise.data
        assert emitted in self.encrypted
        assert (key.counters.sessions, key.counters.frames_bad) == (1, 0)
        return key


@contextmanager
def _in_a_thread(firmware: Firmware, at: pty.Terminal) -> Iterator[None]:
    reading, writing = os.pipe()

    def serve() -> None:
        with suppress(FileFailed):  # a client of a socket that has gone
            pty.serve(firmware, at, reading)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        os.close(writing)
        thread.join()
        os.close(reading)


@contextmanager
def on_a_pty(link: Path, rate_bytes_per_s: float = 200_000.0) -> Iterator[Served]:
    """Plug it in at `link`; it is unplugged when the block ends."""
    served = Served(rate_bytes_per_s)
    with pty.terminal(link) as at, _in_a_thread(served.firmware, at):
        yield served


@contextmanager
def listening(path: Path, *, backlog: int = 5) -> Iterator[socket.socket]:
    """Listen at `path` until the block ends."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(backlog)
        yield listener


@contextmanager
def to_the_client_of(listener: socket.socket, path: Path) -> Iterator[Served]:
    """Serve the client that has connected, as ekey-ulusbd does."""
    connection, _ = listener.accept()
    with connection:
        os.set_blocking(connection.fileno(), False)
        served = Served()
        with _in_a_thread(served.firmware, pty.Terminal(connection.fileno(), "", path)):
            yield served
