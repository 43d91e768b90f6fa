# SPDX-License-Identifier: LGPL-2.1-or-later
"""A driver and a simulated Entropy Key with a wire between them that can be tampered with."""

from collections.abc import Callable

import pytest

from virtrng.errors import KeyLost
from virtrng.keys.entropykey import EntropyKey
from virtrng.keys.entropykey.frames import FRAME_BYTES
from virtrng.keys.entropykey.session import RESET
from virtrng.sim.entropykey import SERIAL, SimulatedEntropyKey, SimulatedTransport, seeded_noise

LONG_TERM_KEY = bytes(range(100, 132))


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


class Wire:
    """A transport that hands every frame of another to `tamper`, and passes on what that returns."""

    simulated = True
    key = "entropykey:serial=" + SERIAL

    def __init__(self, inner: SimulatedTransport) -> None:
        self.inner = inner
        self.tamper: Callable[[bytes], bytes] = lambda frame: frame
        self.drop_writes = False
        self.gone = False
        self.written: list[bytes] = []
        self.closed = 0
        self.held = b""

    def read(self, size: int, timeout_ms: int) -> bytes:
        if self.gone:
            raise KeyLost(self.key, "being read")
        if not self.held:
            arrived = self.inner.read(max(FRAME_BYTES, size // FRAME_BYTES * FRAME_BYTES), timeout_ms)
            frames = [arrived[at : at + FRAME_BYTES] for at in range(0, len(arrived), FRAME_BYTES)]
            self.held = b"".join([self.tamper(frame) for frame in frames])
        taken, self.held = self.held[:size], self.held[size:]
        return taken

    def write(self, data: bytes, timeout_ms: int) -> None:
        assert timeout_ms > 0
        self.written.append(data)
        if not self.drop_writes:
            self.inner.write(data, timeout_ms)

    def close(self) -> None:
        self.closed += 1


class Rig:
    """Both ends on one clock; `encrypted` is every plaintext of the key's, 32 bytes each, in order."""

    def __init__(
        self,
        *,
        long_term_key: bytes = LONG_TERM_KEY,
        expected: str = "",
        read_bytes: int = FRAME_BYTES,
        rate_bytes_per_s: float = 4000.0,
    ) -> None:
        self.clock = Clock()
        self.encrypted: list[bytes] = []
        self.noise = seeded_noise(bytes(32))
        self.firmware = SimulatedEntropyKey(
            long_term_key=LONG_TERM_KEY,
            now_s=self.clock(),
            rate_bytes_per_s=rate_bytes_per_s,
            noise=self._encrypt,
            device_entropy=seeded_noise(bytes(31) + b"\1"),
        )
        inner = SimulatedTransport(self.firmware, clock=self.clock, sleep=self.clock.sleep)
        self.wire = Wire(inner)
        self.looked_up: list[str] = []
        self.driver_long_term_key = long_term_key
        self.key = EntropyKey(
            self.wire,
            self._look_up,
            min_entropy=0.5,
            keyring="/etc/virtrng/keyring",
            serial=expected,
            clock=self.clock,
            random_bytes=bytes,
            read_bytes=read_bytes,
        )

    def _look_up(self, serial: str) -> bytes:
        self.looked_up.append(serial)
        return self.driver_long_term_key

    def _encrypt(self, size: int) -> bytes:
        plain = self.noise(size)
        self.encrypted.append(plain)
        return plain

    @property
    def resets(self) -> int:
        """How often the driver has sent ^C."""
        return self.wire.written.count(RESET)

    def collect(self, size_bytes: int) -> bytes:
        """Read until so many bytes were emitted; fails if ten seconds bring none."""
        emitted = b""
        while len(emitted) < size_bytes:
            noise = self.key.read(10_000)
            assert noise is not None
            emitted += noise.data
        return emitted

    def running(self, size_bytes: int = 320) -> "Rig":
        """Start, and read some noise, so that a session is proved."""
        self.key.start()
        self.collect(size_bytes)
        return self

    def next_entropy(self, change: Callable[[bytes], bytes], *, times: int = 1) -> None:
        """Change the next E frames on the wire, so many of them, and no other frame."""
        left = times

        def tamper(frame: bytes) -> bytes:
            nonlocal left
            if left == 0 or frame[2:4] != b"E!":
                return frame
            left -= 1
            return change(frame)

        self.wire.tamper = tamper


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def make_rig() -> type[Rig]:
    return Rig
