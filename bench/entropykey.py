# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measure the Entropy Key's driver: its cryptography, and its CPU time beside Debian's ekeyd.

Both read simulated keys, each from a pseudo-terminal of its own, at the same time and at a real
key's pace, and write what they decrypt to files, which are compared with what the keys encrypted.
Nothing opens /dev/random. Run by `make bench`.
"""

import argparse
import base64
import os
import platform
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from tests.lab.images import unpacked
from virtrng import __version__
from virtrng.keys.entropykey import READ_BYTES, EntropyKey
from virtrng.keys.entropykey.frames import FRAME_BYTES, Frame, FrameReader, FrameType, binary_frame
from virtrng.keys.entropykey.session import (
    ENTROPY_BYTES,
    LAST_SEQUENCE,
    ZERO_KEY,
    Personalisation,
    Session,
    session_key,
    truncate,
)
from virtrng.keys.entropykey.skein import prepare
from virtrng.sim.entropykey import BLOCK_FRAMES, SERIAL, SimulatedEntropyKey, seeded_noise
from virtrng.sim.pty import serve, terminal

ROUNDS = 3
FRAMES = LAST_SEQUENCE + 1
BATCHES = (1, 8, 78, 256, 1024, 4096)
RAW_SERIAL = base64.b64decode(SERIAL)
LONG_TERM_KEY = bytes(range(100, 132))
SECRET = bytes(range(32))
PLAIN = list(map(seeded_noise(bytes(32)), [ENTROPY_BYTES] * FRAMES))
# What each asks its terminal for at once: the last as our driver does. 0: ekeyd decides for itself.
READERS = {"ekeyd": 0, "virtrng, a frame a read": FRAME_BYTES, "virtrng, 32 frames a read": READ_BYTES}
MINUTE_S = 60
START_S = 30.0


# --- frames a second


def one_by_one(frames: list[Frame]) -> list[bytes]:
    """Verify and decrypt with the plain Skein."""
    authentication = prepare(RAW_SERIAL, SECRET, Personalisation.AUTHENTICATION.value)
    encryption = prepare(RAW_SERIAL, SECRET, Personalisation.ENCRYPTION.value)
    decrypted = []
    for frame in frames:
        if frame.mac != truncate(authentication.final_pad(frame.covered)):
            raise SystemExit("a MAC is wrong")
        pad = int.from_bytes(encryption.final(frame.covered[2:4]), "little")
        block = int.from_bytes(frame.binary, "little") ^ pad
        decrypted.append(block.to_bytes(ENTROPY_BYTES, "little"))
    return decrypted


def side_by_side(frames: list[Frame], batch_frames: int) -> list[bytes]:
    """Verify and decrypt as the driver does when each read brings so many frames."""
    session = Session(RAW_SERIAL, SECRET)
    decrypted = []
    for start in range(0, len(frames), batch_frames):
        batch = frames[start : start + batch_frames]
        decrypted += [session.decrypt(frame) or b"" for frame in batch if session.verifies(frame, batch)]
    return decrypted


class Recording:
    """A transport that brings one session, as fast as it is read."""

    key = f"entropykey:serial={SERIAL}"
    simulated = True

    def __init__(self, wire: bytes) -> None:
        self._wire = wire
        self._at = 0
        self._end = FRAME_BYTES
        self._now_s = 0.0

    def clock(self) -> float:
        """Return the time, which passes only while there is nothing to read."""
        return self._now_s

    def read(self, size: int, timeout_ms: int) -> bytes:
        """Return the next bytes: first S! alone, for the rest answers K."""
        start, self._at = self._at, min(self._at + size, self._end)
        if start == self._at:
            self._now_s += timeout_ms / 1000
        return self._wire[start : self._at]

    def write(self, data: bytes, timeout_ms: int) -> None:  # noqa: ARG002  nothing to wait for
        """Have the rest come, once the driver asks for a session."""
        if data.startswith(b"K"):
            self._end = len(self._wire)

    def close(self) -> None:
        """Do nothing."""


def recorded_wire() -> bytes:
    """Return what a key sends from ^C to the end of its first session, to a host whose nonce is 0."""
    zero = Session(RAW_SERIAL, ZERO_KEY)
    entropy, nonce = bytes(ENTROPY_BYTES), bytes(12)
    session = Session(RAW_SERIAL, session_key(RAW_SERIAL, LONG_TERM_KEY, nonce, entropy))
    return b"".join(
        [
            zero.frame(binary_frame(FrameType.SERIAL_NUMBER, 0, RAW_SERIAL)),
            zero.frame(binary_frame(FrameType.SESSION_REKEY, len(nonce), entropy)),
            *(session.frame(session.encrypt(number, plain)) for number, plain in enumerate(PLAIN)),
        ]
    )


def whole_driver(wire: bytes, read_frames: int) -> list[bytes]:
    """Let the driver itself read, parse, verify and decrypt a session."""
    recording = Recording(wire)
    key = EntropyKey(
        recording,
        lambda _: LONG_TERM_KEY,
        min_entropy=0.5,
        clock=recording.clock,
        random_bytes=bytes,
        read_bytes=read_frames * FRAME_BYTES,
    )
    key.start()
    noise = bytearray()
    while len(noise) < FRAMES * ENTROPY_BYTES:
        read = key.read(1000)
        noise += read.data if read else b""
    return [bytes(noise[at : at + ENTROPY_BYTES]) for at in range(0, len(noise), ENTROPY_BYTES)]


def report_speed() -> None:
    """Print the frames a second of each way, the best of three rounds in which they take turns."""
    device = Session(RAW_SERIAL, SECRET)
    sent = b"".join([device.frame(device.encrypt(number, plain)) for number, plain in enumerate(PLAIN)])
    frames = [frame for frame in FrameReader().feed(sent) if frame]
    wire = recorded_wire()
    ways: dict[str, Callable[[], list[bytes]]] = {"plain Skein": partial(one_by_one, frames)}
    for size in BATCHES:
        ways[f"batches of {size}"] = partial(side_by_side, frames, size)
    for size in (1, 63, 78):
        ways[f"whole driver, {size} a read"] = partial(whole_driver, wire, size)
    best_s = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begun_s = time.perf_counter()
            decrypted = way()
            best_s[name] = min(best_s[name], time.perf_counter() - begun_s)
            if decrypted != PLAIN:
                raise SystemExit(f"{name}: not what was encrypted")
    print(f"{FRAMES} frames of a session verified and decrypted, best of {ROUNDS}")
    for name, taken_s in best_s.items():
        print(f"  {name:26} {FRAMES / taken_s:8,.0f} frames/s {best_s['plain Skein'] / taken_s:6.2f} x plain")


# --- beside ekeyd


class Terminal:
    """A transport on a terminal that is raw already."""

    simulated = True

    def __init__(self, path: Path) -> None:
        self.key = f"entropykey:{path}"
        self._descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def read(self, size: int, timeout_ms: int) -> bytes:
        """Return what is at hand, or comes in time."""
        return os.read(self._descriptor, size) if self._poll.poll(timeout_ms) else b""

    def write(self, data: bytes, timeout_ms: int) -> None:  # noqa: ARG002  a terminal takes 18 bytes at once
        """Write a command."""
        os.write(self._descriptor, data)

    def close(self) -> None:
        """Give the terminal back."""
        os.close(self._descriptor)


def read_for_ever(path: Path, output: Path, read_bytes: int) -> NoReturn:
    """Do with our driver what ekeyd does, in a process of its own, until it is terminated."""
    key = EntropyKey(Terminal(path), lambda _: LONG_TERM_KEY, min_entropy=0.5, read_bytes=read_bytes)
    key.start()
    with output.open("ab", buffering=0) as file:
        while True:
            noise = key.read(1000)
            if noise:
                file.write(noise.data)


@dataclass(slots=True)
class Contestant:
    """A key, what it has encrypted, and the process that reads it."""

    name: str
    terminal: Path
    output: Path
    encrypted: list[bytes]
    process: subprocess.Popen[bytes] | None = None

    def now(self) -> tuple[float, int]:
        """Return the CPU seconds of the process and the bytes that it has written."""
        if self.process is None or self.process.poll() is not None:
            raise SystemExit(f"{self.name}: ended early")
        # The clock of another process, clock_getcpuclockid(3): CPUCLOCK_SCHED is 2, in nanoseconds.
        return time.clock_gettime(~self.process.pid << 3 | 2), self.output.stat().st_size

    def check(self) -> None:
        """Exit unless what was written is what the key encrypted, from the first byte on."""
        written = self.output.read_bytes()
        if written != b"".join(self.encrypted)[: len(written)]:
            raise SystemExit(f"{self.name}: wrote other bytes than the key encrypted")


@contextmanager
def served(name: str, folder: Path) -> Iterator[Contestant]:
    """Plug a simulated key into a terminal, for a contestant of this name."""
    encrypted: list[bytes] = []
    noise = seeded_noise(bytes(32))

    def recorded(size: int) -> bytes:
        encrypted.append(noise(size))
        return encrypted[-1]

    folder.mkdir()
    (folder / "output").touch()
    stopped, stop = os.pipe()
    with terminal(folder / "tty") as at:
        firmware = SimulatedEntropyKey(long_term_key=LONG_TERM_KEY, now_s=time.monotonic(), noise=recorded)
        thread = threading.Thread(target=serve, args=(firmware, at, stopped))
        thread.start()
        try:
            yield Contestant(name, at.link, folder / "output", encrypted)
        finally:
            os.close(stop)
            thread.join()
            os.close(stopped)


@contextmanager
def running(contestant: Contestant, command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """Let the command read the contestant's key until the block ends."""
    # It dies with the bench, however that ends.
    command = ["setpriv", "--pdeathsig=KILL", *command]
    with subprocess.Popen(command, env=os.environ | environment, stdin=subprocess.DEVNULL) as process:
        contestant.process = process
        try:
            yield
        finally:
            process.terminate()


def ekeyd_command(contestant: Contestant) -> tuple[list[str], dict[str, str]]:
    """Return how to run Debian's ekeyd: unpacked, not installed, for its package starts a daemon."""
    folder = contestant.output.parent
    keyring = folder / "keyring"
    keyring.write_text(f"{SERIAL} {base64.b64encode(LONG_TERM_KEY).decode()}\n")
    keyring.chmod(0o600)
    (folder / "ekeyd.conf").write_text(
        f'Daemonise(false)\nUnixControlSocket "{folder}/control"\nKeyring "{keyring}"\n'
        f'SetOutputToFile "{contestant.output}"\nAddEntropyKey "{contestant.terminal}"\n'
    )
    sockets = unpacked("lua-socket")
    (lua,) = unpacked("liblua5.1-0").glob("usr/lib/*/liblua5.1.so.0")
    (library,) = sockets.glob("usr/lib/*/lua/5.1")
    command = [f"{unpacked('ekeyd')}/usr/sbin/ekeyd", "-f", f"{folder}/ekeyd.conf", "-p", f"{folder}/pid"]
    return command, {
        "LD_LIBRARY_PATH": str(lua.parent),
        "LUA_PATH": f"{sockets}/usr/share/lua/5.1/?.lua",
        "LUA_CPATH": f"{library}/?.so",
    }


def our_command(contestant: Contestant, read_bytes: int) -> tuple[list[str], dict[str, str]]:
    """Return how to run this driver."""
    arguments = [str(contestant.terminal), str(contestant.output), str(read_bytes)]
    return [sys.executable, "-m", "bench.entropykey", "--read", *arguments], {}


def started(stack: ExitStack, folder: Path) -> list[Contestant]:
    """Return ekeyd and this driver, each with a key of its own, once all are in full run."""
    contestants: list[Contestant] = []
    for name, read_bytes in READERS.items():
        contestant = stack.enter_context(served(name, folder / str(len(contestants))))
        how = our_command(contestant, read_bytes) if read_bytes else ekeyd_command(contestant)
        stack.enter_context(running(contestant, *how))
        contestants.append(contestant)
    until_s = time.monotonic() + START_S
    while any(each.now()[1] < 2 * BLOCK_FRAMES * ENTROPY_BYTES for each in contestants):
        if time.monotonic() > until_s:
            raise SystemExit(f"not all of them wrote two blocks within {START_S:.0f} s")
        time.sleep(0.01)
    return contestants


def report_cpu(seconds: int) -> None:
    """Print what a minute of a key costs each, from `seconds` of it."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        contestants = started(stack, Path(folder))
        before, begun_s = [each.now() for each in contestants], time.monotonic()
        time.sleep(seconds)
        after, taken_s = [each.now() for each in contestants], time.monotonic() - begun_s
        for each in contestants:
            each.check()
    print(f"CPU time for {MINUTE_S} s of a key on a terminal, from {seconds} s; all wrote what it encrypted")
    minutes = taken_s / MINUTE_S
    base_s = after[0][0] - before[0][0]
    for each, (cpu0_s, size0), (cpu1_s, size1) in zip(contestants, before, after, strict=True):
        cpu_s, size_bytes = cpu1_s - cpu0_s, size1 - size0
        per_frame_us = cpu_s / (size_bytes / ENTROPY_BYTES) * 1e6
        print(
            f"  {each.name:26} {cpu_s / minutes:6.3f} s {cpu_s / base_s:6.2f} x ekeyd"
            f" {per_frame_us:6.0f} us a frame, {size_bytes / taken_s:,.0f} bytes/s"
        )


def main(argv: list[str]) -> int:
    """Print both comparisons; exit 1 if anything was decrypted to other bytes than were encrypted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=20, help="how long to read the keys (default: 20)")
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)  # what the bench runs beside ekeyd
    arguments = parser.parse_args(argv)
    if arguments.read:
        path, output, read_bytes = arguments.read
        read_for_ever(Path(path), Path(output), int(read_bytes))
    if arguments.seconds < 1:
        parser.error("--seconds is at least 1")
    print(f"virtrng {__version__}, Python {platform.python_version()}, {unpacked('ekeyd').name}")
    report_speed()
    report_cpu(arguments.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
