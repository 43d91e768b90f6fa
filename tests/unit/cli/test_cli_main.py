# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all commands share: help, exit codes, errors as sentences, and nothing loaded in vain."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command
from tests.unit.support import ROOT, virtrng
from virtrng import __version__, cli
from virtrng.errors import ExitCode

NAMES = [one.name for one in cli.COMMANDS]

# What each may load before its own words are parsed.
HEAVY: dict[str, set[str]] = {
    "keys": {"pyudev", "usb"},
    "feed": {"pyudev", "usb"},
    "enable": {"libvirt", "lxml"},
    "disable": {"libvirt", "lxml"},
    "status": {"libvirt", "lxml"},
    "xml": {"lxml"},
    "watch": {"libvirt", "lxml"},
    "hook": set(),
    "test": set(),
    "render": {"jinja2", "lxml"},
}


@pytest.mark.parametrize("name", NAMES)
def test_help_of_each_command(name: str, command: Command) -> None:
    ran = command(name, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines[0].startswith(f"usage: virtrng {name}")
    assert "\n\nOptions".lower() in ran.out.decode().lower()


def test_help_lists_every_command_in_two_groups(command: Command) -> None:
    ran = command("--help")
    assert ran.code == 0
    text = ran.out.decode()
    everyday, plumbing = text.split("everyday commands:")[1].split("plumbing:")
    for one in cli.COMMANDS:
        assert f"  {one.name} " in (everyday if one.everyday else plumbing)
        assert one.help in text


def test_help_of_the_verbs(command: Command) -> None:
    for words in (
        "keys pair",
        "keys import-ekeyd",
        "keys test",
        "keys capture",
        "hook install",
        "hook uninstall",
        "hook status",
    ):
        ran = command(*words.split(), "--help")
        assert ran.code == 0
        assert ran.lines[0].startswith(f"usage: virtrng {words} ")


def test_version(command: Command) -> None:
    assert command("--version").lines == [f"virtrng {__version__}"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_loaded_in_vain(name: str) -> None:
    script = (
        "import sys; from virtrng.cli import main; code = main([sys.argv[1], '--help']);"
        "print('loaded:', *{name.split('.')[0] for name in sys.modules}); sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, name], capture_output=True, text=True, cwd=ROOT, check=True
    )
    loaded = set(run.stdout.splitlines()[-1].split()[1:])
    assert loaded & {"libvirt", "usb", "pyudev", "lxml", "jinja2", "rich", "asyncio"} <= HEAVY.get(
        name, set()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["--nonsense"],
        ["keys", "--nonsense"],
        ["keys", "nonsense"],
        ["keys", "capture"],
        ["keys", "test"],
        ["keys", "test", "--simulate", "nonsense"],
        ["keys", "pair", "a", "b"],
        ["keys", "import-ekeyd", "a", "b"],
        ["keys", "capture", "--simulate", "entropykey", "--output", "x"],
        ["keys", "capture", "--simulate", "entropykey", "--bytes", "0", "--output", "x"],
        ["keys", "capture", "--simulate", "entropykey", "--bytes", "x", "--output", "x"],
        ["keys", "capture", "--simulate", "nonsense", "--bytes", "1", "--output", "x"],
        ["feed", "--simulate", "nonsense"],
        ["hook"],
        ["hook", "nonsense"],
        ["render"],
        ["status", "extra"],
        ["test", "a", "b"],
        ["xml", "--rate", "1"],
        ["xml", "--rate", "0/1000"],
        ["xml", "--rate", "1/4294967296"],
        ["xml", "--rate", "-1/5"],
        ["enable", "x", "--rate", "many/ms"],
    ],
    ids=" ".join,
)
def test_a_wrong_usage_is_two_and_explained_on_stderr(arguments: list[str], command: Command) -> None:
    ran = command(*arguments)
    assert ran.code == 2
    assert ran.out == b""
    assert "usage: virtrng" in ran.err
    assert "error: " in ran.err
    assert "_count" not in ran.err, "no names of ours"


@pytest.mark.parametrize("name", ["keys", "feed", "status", "xml", "render", "enable"])
def test_a_bad_configuration_is_two_and_named(name: str, command: Command, tmp_path: Path) -> None:
    file = tmp_path / "virtrng.toml"
    file.write_text("[feeder]\ninterval_s = 0\n")
    more = {
        "keys": ["capture", "--simulate", "entropykey", "--bytes", "1", "--output", str(tmp_path / "x")],
        "render": ["rng.xml"],
        "enable": ["guest"],
    }.get(name, [])
    ran = command("--config-file", file, name, *more)
    assert (ran.code, ran.out) == (ExitCode.USAGE, b"")
    assert ran.err.splitlines() == [
        f"virtrng: {file}: feeder.interval_s is 0",
        "  allowed: a whole number of seconds, 1 to 300",
    ]


def test_a_configuration_that_is_not_there(command: Command, tmp_path: Path) -> None:
    ran = command("--config-file", tmp_path / "none", "status")
    assert ran.code == ExitCode.USAGE
    assert ran.err.splitlines()[0] == f"virtrng: {tmp_path}/none: no such file"


# --- errors


def test_a_bug_of_ours_is_one_line_and_with_v_a_trace(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from virtrng.cli import render

    def broken(_: object) -> int:
        raise RuntimeError("broken")

    monkeypatch.setattr(render, "run", broken)
    ran = command("render", "rng.xml")
    assert ran.code == 1
    assert ran.err.splitlines() == [
        "virtrng: internal error: RuntimeError: broken",
        "  please report it with what 'virtrng -v …' prints",
    ]
    with pytest.raises(RuntimeError, match="broken"):
        command("-v", "render", "rng.xml")


def test_ctrl_c_is_130(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from virtrng.cli import render

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(render, "run", interrupted)
    ran = command("render", "rng.xml")
    assert (ran.code, ran.out, ran.err) == (130, b"", "")


def test_a_library_that_is_missing_is_told_with_the_interpreter_that_lacks_it(tmp_path: Path) -> None:
    """LibraryMissing: of a Python that is not Debian's, and comes first in the user's PATH."""
    (tmp_path / "lxml.py").write_text("raise ModuleNotFoundError('no lxml here', name='lxml')\n")
    ran = virtrng("xml", environment={"PYTHONPATH": str(tmp_path)})
    assert ran.returncode == 1
    first, second = ran.stderr.decode().splitlines()
    assert first == f"virtrng: {sys.executable} has no module 'lxml'"
    assert "/usr/bin/python3" in second


# --- stdout that cannot be written to

PRINTING = [["--help"], ["keys", "--supported"], ["keys", "--supported", "--json"], ["render", "rng.xml"]]


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", PRINTING, ids=" ".join)
def test_a_reader_that_has_gone_is_no_error(arguments: list[str], buffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        run = subprocess.run(
            [sys.executable, "-m", "virtrng", *arguments], stdout=writing, stderr=subprocess.PIPE, cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": buffered}, check=False,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (run.returncode, run.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [*PRINTING, ["xml"]], ids=" ".join)
def test_a_full_disk_is_told(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        run = subprocess.run(
            [sys.executable, "-m", "virtrng", *arguments], stdout=full, stderr=subprocess.PIPE, cwd=ROOT,
            input=b"<domain type='kvm'/>", check=False,
        )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.decode().splitlines() == [
        "virtrng: cannot write to stdout: No space left on device",
        "  check its directory, its permissions and the space on its disk",
    ]


def test_it_runs_as_a_directory_from_anywhere() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "virtrng"), "--version"], capture_output=True, text=True, cwd="/",
        check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout, run.stderr) == (0, f"virtrng {__version__}\n", "")
