# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who has a key in use: recognised by what the kernel tells of the process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from virtrng.cli import holders
from virtrng.cli.holders import Holder, recognised, told
from virtrng.errors import KeyInUse, KeyLost

Process = Callable[..., None]


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    """Make the process 7 run these words, in the control group of this unit."""
    monkeypatch.setattr(holders, "_PROC", tmp_path)

    def run(*words: str, unit: str = "user@0.service") -> None:
        (tmp_path / "7").mkdir()
        (tmp_path / "7" / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
        (tmp_path / "7" / "cgroup").write_text(f"0::/system.slice/{unit}\n")

    return run


STOP = "'systemctl stop virtrng-feeder' first; start it again afterwards"


@pytest.mark.parametrize(
    "words",
    [
        ("/usr/bin/python3", "/usr/local/bin/virtrng", "feed"),
        ("/usr/bin/python3", "-I", "-m", "virtrng", "feed", "--key", "x"),
        ("unrecognisable",),
    ],
)
def test_our_service(process: Process, words: tuple[str, ...]) -> None:
    process(*words, unit="virtrng-feeder.service")
    assert recognised("python3 (pid 7)") == Holder(
        "virtrng feed, the service virtrng-feeder (pid 7)", feeds=True, way_out=STOP
    )


def test_a_feeder_in_the_foreground(process: Process) -> None:
    process("/usr/bin/python3", "-m", "virtrng", "--config-file", "x", "feed")
    assert recognised("python3 (pid 7)") == Holder(
        "virtrng feed (pid 7)", feeds=True, way_out="end it first: 'kill 7'"
    )


def test_another_command_of_ours(process: Process) -> None:
    process("/usr/bin/python3", "/usr/local/bin/virtrng", "-v", "keys", "capture", "x")
    assert recognised("virtrng (pid 7)") == Holder(
        "virtrng keys (pid 7)", feeds=False, way_out="wait for it to end, or end it"
    )


def test_ekeyd(process: Process) -> None:
    process("/usr/sbin/ekeyd")
    found = recognised("ekeyd (pid 7)")
    assert (found.name, found.feeds) == ("ekeyd (pid 7)", False)
    assert "'systemctl stop ekeyd' first" in found.way_out
    assert "'virtrng keys import-ekeyd'" in found.way_out


@pytest.mark.parametrize("holder", ["picocom (pid 7)", "another program", "x (pid 8)", "(pid )", ""])
def test_all_others(process: Process, holder: str) -> None:
    process("picocom", "/dev/ttyACM0", "feed")
    found = recognised(holder)
    assert (found.name, found.feeds) == (holder, False)
    assert found.way_out == KeyInUse("", "").way_out


def test_it_is_told(process: Process) -> None:
    process("x", unit="virtrng-feeder.service")
    with pytest.raises(KeyInUse) as caught, told():
        raise KeyInUse("K", "python3 (pid 7)")
    assert str(caught.value) == "K is in use by virtrng feed, the service virtrng-feeder (pid 7)"
    assert caught.value.remedy == STOP
    with pytest.raises(KeyLost), told():
        raise KeyLost("K", "being read")
