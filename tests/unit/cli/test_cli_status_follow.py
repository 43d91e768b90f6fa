# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng status --follow`: what changes, as it changes, whatever ends meanwhile."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from tests.unit.cli.conftest import Ran
from tests.unit.cli.fed import FED, FEEDER, KEY, NAME, NOW_S, UNIX_S, running
from tests.unit.support import ROOT
from virtrng import status
from virtrng.cli import status_follow, status_guests
from virtrng.cli.status_guests import Guests
from virtrng.config import DomainSettings
from virtrng.errors import NoHypervisor

Show = Callable[..., Ran]
Step = Callable[[], object]
PATIENCE_S = 60


@pytest.fixture
def follow(show: Show, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run `status --follow`, with a step between two looks each; the last is Ctrl-C."""

    def run(steps: list[Step], *arguments: str) -> Ran:
        left = iter(steps)

        def pause() -> None:
            try:
                next(left)()
            except StopIteration:
                raise KeyboardInterrupt from None

        monkeypatch.setattr(status_follow, "_pause", pause)
        return show("--follow", *arguments)

    return run


def facts(ran: Ran) -> list[str]:
    """Return the lines without their time, which each must have; guests left out."""
    assert (ran.code, ran.err) == (0, "")
    stamped = [re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d (.*)", line) for line in ran.lines]
    assert all(stamped)
    return [line for match in stamped if match and not (line := match[1]).startswith("guest")]


def test_a_pipe_gets_what_changes(follow: Callable[..., Ran], tmp_path: Path) -> None:
    def write(feeder: status.FeederStatus) -> Step:
        return lambda: status.write(tmp_path / "run", feeder)

    later = replace(FED, updated_at=UNIX_S + 1, keys=(replace(KEY, bytes_read=12_000),))
    seeded = replace(later, kernel=replace(FED.kernel, seeds=4, seeded_bits=1024))
    bad = replace(KEY, state="quarantine", reason="an alarm", until_boottime_s=NOW_S + 60)
    with running(tmp_path / "run"):
        ran = follow([
            lambda: None,
            write(later),
            write(seeded),
            write(replace(seeded, keys=(bad,), unfed_since_boottime_s=NOW_S)),
            write(replace(seeded, keys=(replace(bad, until_boottime_s=NOW_S + 30),))),
        ])  # fmt: skip
    assert facts(ran) == [
        f"fed     yes, by {NAME}",
        f"feeder  {FEEDER}: 3 seeds, 768 bits credited",
        f"key     {NAME}: ok",
        "pool    the kernel's generator is ready",
        f"feeder  {FEEDER}: 4 seeds, 1,024 bits credited",
        "fed     no longer: no key feeds",
        f"key     {NAME}: in quarantine: an alarm; nothing of it is used",
        "pool    the kernel's generator is ready: guests go on from it, without a key's help",
    ]


def test_a_feeder_that_ends_and_comes_back(follow: Callable[..., Ran], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    feeder = ExitStack()
    feeder.enter_context(running(run_dir))
    with feeder, ExitStack() as restarted:
        ran = follow([
            feeder.close,
            (run_dir / status.FILE_NAME).unlink,
            lambda: (run_dir / status.FILE_NAME).write_text("{"),
            lambda: restarted.enter_context(running(run_dir)),
        ])  # fmt: skip
    fed = [line for line in facts(ran) if line.startswith("fed ")]
    assert fed[0] == fed[-1] == f"fed     yes, by {NAME}"
    assert fed[1] == "fed     no: no feeder runs"
    assert fed[2].startswith(f"fed     not known: {run_dir}/feeder.json: not JSON: ")


def test_lines_of_json(follow: Callable[..., Ran], tmp_path: Path) -> None:
    def write(feeder: status.FeederStatus) -> Step:
        return lambda: status.write(tmp_path / "run", feeder)

    with running(tmp_path / "run"):
        ran = follow([
            write(replace(FED, updated_at=UNIX_S + 1)),
            write(replace(FED, updated_at=UNIX_S + 2, keys=(replace(KEY, bytes_read=12_000),))),
        ], "--json")  # fmt: skip
    documents = [json.loads(line) for line in ran.lines]
    read = [document["feeder"]["status"]["keys"][0]["bytes_read"] for document in documents]
    assert (ran.code, read) == (0, [10_000, 12_000])
    assert list(documents[0]) == ["feeder", "pool", "watcher", "guests", "guests_error", "problems"]
    assert [guest["name"] for guest in documents[0]["guests"]] == ["test"]


def test_guests_that_come_go_and_change(follow: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([
        Guests((), NoHypervisor("qemu:///system", "down")),
        Guests(({"name": "web01", "running": False, "definition": [], "live": None, "wanted": None},), None),
    ])  # fmt: skip
    looked = Event()
    known: list[Guests] = []

    def look(_uri: str | None, _settings: DomainSettings) -> Guests:
        known[:] = [next(answers, known[0] if known else Guests((), None))]
        if not known[0].trouble:
            looked.set()
        return known[0]

    monkeypatch.setattr(status_guests, "look", look)
    monkeypatch.setattr(status_follow, "GUESTS_EVERY_S", 0.0)
    ran = follow([lambda: looked.wait(PATIENCE_S), lambda: None])
    guests = [line.split(" ", 1)[1] for line in ran.lines if " guest" in line]
    assert guests[-1] == "guest   web01: off; in its definition none"


def test_a_libvirt_that_hangs_keeps_nobody_waiting(
    follow: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Event()

    def hang(_uri: str | None, _settings: DomainSettings) -> Guests:
        answer.wait(PATIENCE_S)
        return Guests((), None)

    monkeypatch.setattr(status_guests, "look", hang)
    monkeypatch.setattr(status_follow, "FIRST_ANSWER_S", 0.0)
    with running(tmp_path / "run"):
        ran = follow([answer.set])
    assert f"fed     yes, by {NAME}" in facts(ran)
    assert ran.lines[-1].endswith(
        "guests  not known: no libvirt answers at test:///default: it has not answered yet"
    )


# --- as a process, on a terminal


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "virtrng.toml"
    file.write_text(f"[paths]\nrun_dir = '{tmp_path}/run'\n")
    return file


def until(fd: int, text: str) -> str:
    """Read what the terminal shows, until `text` has come."""
    shown = ""
    while text not in shown:
        shown += os.read(fd, 65536).decode()
    return shown


def arguments(config_file: Path) -> list[str]:
    named = ["--config-file", str(config_file), "-c", "test:///default"]
    return [sys.executable, "-m", "virtrng", *named, "status", "--follow"]


@pytest.fixture
def screen(config_file: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "LINES": "40"}
    process = subprocess.Popen(
        arguments(config_file), stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=environment
    )
    os.close(theirs)
    yield process, ours
    process.kill()
    process.wait()
    os.close(ours)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_shows_it_live(
    ending: signal.Signals, screen: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    process, fd = screen
    until(fd, "no feeder runs")
    with running(tmp_path / "run"):
        shown = until(fd, "WANTED")
        while "of 7,500 tested bytes" not in shown:
            shown += until(fd, "WANTED")
    process.send_signal(ending)
    assert process.wait(PATIENCE_S) == 0
    assert until(fd, "\x1b[?25h")  # the cursor is back


def test_a_reader_that_has_seen_enough(config_file: Path) -> None:
    with subprocess.Popen(arguments(config_file), stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert b"no feeder runs" in process.stdout.readline()
        process.stdout.close()
        (config_file.parent / "run").mkdir()
        (config_file.parent / "run" / status.FILE_NAME).write_text("{")  # news, for nobody
        assert process.wait(PATIENCE_S) == 0
