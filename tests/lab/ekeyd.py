# SPDX-License-Identifier: LGPL-2.1-or-later
"""Debian's own programs for the Entropy Key, as judges of the simulated one: ekeyd and ekey-setkey.

They are unpacked, never installed: the package would start a daemon that writes to the kernel pool. Here the
daemon stays in the foreground and writes to a file, and lacks the capability to credit anything. Everything
dies with us.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.lab.host import wait_for
from tests.lab.images import LabError, unpacked
from tests.scale import scaled

ROOT = Path(__file__).resolve().parents[2]
BOUND = ("setpriv", "--pdeathsig=KILL", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
PATIENCE_S = 120.0
# NB: without SetOutputToFile nothing would be read; SetOutputToKernel is what must not be here.
CONFIGURATION = """\
Daemonise(false)
UnixControlSocket "{directory}/control"
Keyring "{keyring}"
SetOutputToFile "{directory}/output"
AddEntropyKey("{key}")
"""


def setkey(key: Path, keyring: Path, master_key: str) -> "subprocess.CompletedProcess[str]":
    """Pair the key with ekey-setkey, which wants a keyring that exists."""
    program = unpacked("ekeyd") / "usr/sbin/ekey-setkey"
    keyring.touch(mode=0o600)
    return subprocess.run(
        [*BOUND, program, "-f", keyring, "-m", master_key, key],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE_S,  # it waits for L! without limit
    )


class Ekeyd:
    """ekeyd on one key, from its start to its end; as a context manager, within the block."""

    def __init__(self, directory: Path, key: Path, keyring: Path) -> None:
        self._directory = directory
        self._key = key
        self.output = directory / "output"
        self.output.touch()
        configuration = directory / "ekeyd.conf"
        configuration.write_text(CONFIGURATION.format(directory=directory, keyring=keyring, key=key))
        program = unpacked("ekeyd") / "usr/sbin/ekeyd"
        self._command = [*BOUND, str(program), "-f", str(configuration), "-p", f"{directory}/pid"]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, env=_environment(), stdin=subprocess.DEVNULL)
        try:
            wait_for(self._answers, "ekeyd to answer", timeout_s=PATIENCE_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self) -> bytes:
        """Have it end, and return all that it wrote."""
        assert self._process is not None
        with suppress(LabError, ConnectionError):  # it may be gone before it answers
            self.ask("Shutdown()")
        assert self._process.wait(PATIENCE_S) == 0
        return self.output.read_bytes()

    def ask(self, expression: str) -> list[list[str]]:
        """Return the lines that answer a Lua expression, each in its fields."""
        rows = []
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(str(self._directory / "control"))
            connection.sendall(f"{expression}\n".encode())
            with connection.makefile(encoding="ascii") as answer:
                assert answer.readline() == "PROTOCOL EKEYD/1\n"
                while (line := answer.readline().rstrip("\n")).startswith("*\t"):
                    rows.append(line.split("\t")[1:])
        if not line.startswith("OK"):
            raise LabError(f"ekeyd to '{expression}': {line}")
        return rows

    def status(self) -> str:
        """Return its word on the key."""
        _titles, row = self.ask("ListEntropyKeys()")
        return row[2]

    def statistics(self) -> dict[str, str]:
        """Return what it has counted."""
        return dict(row[0].split("=", 1) for row in self.ask(f'StatEntropyKey("{self._key}")'))

    def wait_for_output(self, size_bytes: int) -> None:
        """Wait until it has written so much."""
        wait_for(
            lambda: self.output.stat().st_size >= size_bytes,
            f"ekeyd to write {size_bytes} bytes",
            timeout_s=PATIENCE_S * scaled(1),
        )

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise LabError(f"ekeyd ended with status {self._process.returncode}")
        try:
            return bool(self.ask("ListEntropyKeys()"))
        except (FileNotFoundError, ConnectionRefusedError):
            return False


def _environment() -> dict[str, str]:
    lua, sockets = unpacked("liblua5.1-0"), unpacked("lua-socket")
    (library,) = (path.parent for path in lua.glob("usr/lib/*/liblua5.1.so.0"))
    (core,) = sockets.glob("usr/lib/*/lua/5.1/socket/core.so")
    return os.environ | {
        "LD_LIBRARY_PATH": str(library),
        "LUA_PATH": f"{sockets}/usr/share/lua/5.1/?.lua",
        "LUA_CPATH": f"{core.parents[1]}/?.so",
    }


@dataclass(frozen=True, slots=True)
class SimulatedKey:
    """A running `virtrng simulate`."""

    link: Path
    serial: str
    master_key: str
    long_term_key_file: Path
    process: "subprocess.Popen[str]"

    def unplug(self) -> None:
        """End it as a user does."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0


@contextmanager
def simulated_key(directory: Path, *options: str) -> Iterator[SimulatedKey]:
    """Plug in a simulated key; it is gone when the block ends, and its link with it."""
    link, memory = directory / "key", directory / "long-term-key"
    words = [sys.executable, "-m", "virtrng", "simulate", "entropykey", "--json", "--pty", str(link)]
    process = subprocess.Popen(
        [*BOUND, *words, "--long-term-key-file", str(memory), *options],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        text = "".join(iter(process.stdout.readline, "}\n"))
        told = json.loads(text + "}")
        key = SimulatedKey(link, told["serial"], told["master_key"], memory, process)
        yield key
        if process.poll() is None:
            key.unplug()
        assert not link.is_symlink()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
