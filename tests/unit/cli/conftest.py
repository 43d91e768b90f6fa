# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line in this process."""

import io
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli import fed
from tests.unit.cli.bus import CARD, KEY, Bus
from virtrng import cli, config, kernel


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        """What it printed, which must be one document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """What it printed, line by line."""
        return self.out.decode().splitlines()


Command = Callable[..., Ran]


@pytest.fixture
def command(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """Run `virtrng ARGUMENT…` with some stdin; no configuration of this machine's is read."""
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "no-virtrng.toml")

    def run(*arguments: str | Path, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsysbinary.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        captured = capsysbinary.readouterr()
        return Ran(int(code), captured.out, captured.err.decode())

    return run


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    bus = Bus(monkeypatch)
    bus.plug_in(KEY)
    return bus


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "keyring"


@pytest.fixture
def pair(command: Command, keyring: Path, tmp_path: Path) -> Command:
    """Run `virtrng keys pair ARGUMENT…` on a keyring and a run_dir of its own."""
    config_file = tmp_path / "virtrng.toml"
    config_file.write_text(f"[paths]\nrun_dir = '{tmp_path}/run'\n")

    def run(*arguments: str, stdin: bytes = CARD) -> Any:
        return command(
            "--config-file", config_file, "keys", "pair", *arguments, "--keyring", keyring, stdin=stdin
        )

    return run


@pytest.fixture
def show(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run `virtrng status ARGUMENT…` with tmp_path/run as run_dir, at the moment of tests.unit.cli.fed."""
    file = tmp_path / "virtrng.toml"
    file.write_text(f"[paths]\nrun_dir = '{tmp_path}/run'\n")
    monkeypatch.setattr(kernel, "boottime_s", lambda: fed.NOW_S)
    monkeypatch.setattr(time, "time", lambda: fed.UNIX_S)

    def run(*arguments: str, uri: str = "test:///default") -> Ran:
        return command("--config-file", file, "-c", uri, "status", *arguments)

    return run
