# SPDX-License-Identifier: LGPL-2.1-or-later
"""The watcher in `virtrng status`: whether it runs, what it does, and which guests it cannot help."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Ran
from tests.unit.cli.fed import running
from tests.unit.support import ROOT, drop_to_nobody, in_child
from virtrng import files, watch_status
from virtrng.cli import status_follow, status_watch
from virtrng.watch_status import LATENCY_BOUNDS_S, STANDINGS, Latency, Noted, WatchStatus

Show = Callable[..., Ran]
WATCHER = f"virtrng watch (pid {os.getpid()})"
WATCHING = WatchStatus(1.0, os.getpid(), "qemu:///system", guests={"managed": 37})
FAILED = Noted("web01", "u1", "failed", "libvirt failed to attach a device: internal error")
REFUSED = Noted("tiny", "u2", "refused", "tiny: a microvm has no bus for it")
CONTESTED = Noted("db01", "u3", "contested", "left alone: its device was removed 3 times within an hour")
BUSY = Noted("ci01", "u4", "waiting", "ci01 is busy: it migrates")
LOG = "its log tells more: journalctl -u virtrng-watch"
NOT_RUNNING = "watcher not running ('systemctl start virtrng-watch')"


@contextmanager
def watching(watch_dir: Path, last: WatchStatus | None = WATCHING) -> Iterator[None]:
    """Have a watcher run, which has written this last."""
    if last:
        watch_status.write(watch_dir, last)
    lock = files.Lock(watch_dir / watch_status.LOCK_NAME, mode=0o600)
    assert lock.acquire(WATCHER) is None
    try:
        yield
    finally:
        lock.release()


@pytest.fixture
def watch_dir(tmp_path: Path) -> Path:
    return tmp_path / "run-watch"


@pytest.fixture
def lines(show: Show) -> Callable[[], list[str]]:
    """Return what is shown of the watcher: its line, and those below it."""

    def of_watcher() -> list[str]:
        ran = show()
        assert (ran.code, ran.err) == (0, "")
        host = ran.lines[: ran.lines.index("")]
        first = next((number for number, line in enumerate(host) if line.startswith("watcher ")), len(host))
        return host[first:]

    return of_watcher


@pytest.fixture
def problems(show: Show, tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """Return what --check prints, beside a feeder that feeds and guests that nobody asked anything for."""

    def check() -> list[str]:
        ran = show("--check")
        lines = [line for line in ran.lines if not line.startswith("ok: fed by ")]
        assert (ran.code, ran.err) == (1 if lines else 0, "")
        assert show("--check", "--json").json["problems"] == lines
        return lines

    with running(tmp_path / "run"):
        yield check


Lines = Callable[[], list[str]]


def test_no_watcher_to_speak_of(lines: Lines, problems: Lines, show: Show, watch_dir: Path) -> None:
    assert (lines(), problems(), show("--json").json["watcher"]) == ([], [], None)
    watch_dir.mkdir()
    assert (lines(), problems()) == ([], [])


def test_one_that_has_nothing_to_complain_of(lines: Lines, problems: Lines, watch_dir: Path) -> None:
    with watching(watch_dir):
        assert (lines(), problems()) == ([f"watcher {WATCHER}: 37 guests managed"], [])
    with watching(watch_dir, replace(WATCHING, guests={})):
        assert lines() == [f"watcher {WATCHER}: 0 guests managed"]


def test_every_standing_in_words(lines: Lines, watch_dir: Path) -> None:
    counts = {standing: 2 + number for number, standing in enumerate(STANDINGS)}
    newer = counts | {"adopted": 1000}
    with watching(watch_dir, replace(WATCHING, guests=newer, without_device=3)):
        (line,) = lines()
    assert line == (
        f"watcher {WATCHER}: 2 guests managed, 33 left alone (6 there before it, 4 disabled, 3 with a device "
        "of somebody else, 5 another program's, 7 by manage = off, 8 contested), 9 refused, 10 failed, "
        "11 waiting, 1,000 adopted, 3 without a device"
    )


def test_guests_that_are_not_as_they_should_be(lines: Lines, problems: Lines, watch_dir: Path) -> None:
    with watching(watch_dir, replace(WATCHING, noted=(BUSY, CONTESTED, REFUSED, FAILED))):
        assert lines()[1:] == [
            "        ci01 is busy: it migrates",
            "        db01: left alone: its device was removed 3 times within an hour",
            "        tiny: a microvm has no bus for it",
            "        web01: libvirt failed to attach a device: internal error",
        ]
        assert problems() == [
            f"db01: {CONTESTED.why}; 'virtrng enable db01' gives it back",
            "tiny: a microvm has no bus for it; 'virtrng disable tiny' if it is to have none",
            f"web01: {FAILED.why}; {LOG}",
        ]


def test_a_remedy_is_told_once(problems: Lines, watch_dir: Path) -> None:
    told = replace(CONTESTED, why=f"{CONTESTED.why}; 'virtrng enable db01' gives it one")
    with watching(watch_dir, replace(WATCHING, noted=(told,))):
        assert problems() == [f"db01: {told.why}"]


def test_a_name_is_not_taken_for_a_word(problems: Lines, watch_dir: Path) -> None:
    lib = replace(FAILED, name="lib")
    with watching(watch_dir, replace(WATCHING, noted=(lib,))):
        assert problems() == [f"lib: {FAILED.why}; {LOG}"]


def test_many_guests_fill_no_screen(lines: Lines, problems: Lines, watch_dir: Path) -> None:
    many = tuple(replace(FAILED, name=f"web{number}") for number in range(1000))
    with watching(watch_dir, replace(WATCHING, noted=many)):
        assert len(lines()) == 1 + status_watch.NOTED_MAX + 1
        assert lines()[-1] == "        and 995 more"
        assert len(problems()) == 1000


def test_one_that_has_ended(lines: Lines, problems: Lines, show: Show, watch_dir: Path) -> None:
    watch_status.write(watch_dir, replace(WATCHING, noted=(FAILED,), waiting="what was"))
    assert lines() == [NOT_RUNNING]
    assert problems() == ["no watcher runs; start it: systemctl start virtrng-watch"]
    watcher = show("--json").json["watcher"]
    assert (watcher["running"], watcher["holder"], watcher["status"]["guests"]) == (
        False, None, {"managed": 37},
    )  # fmt: skip


def test_one_that_waits_for_libvirt(lines: Lines, problems: Lines, watch_dir: Path) -> None:
    why = "no libvirt answers at qemu:///system: Connection refused"
    with watching(watch_dir, replace(WATCHING, waiting=why, noted=(FAILED,))):
        assert lines() == [f"watcher {WATCHER} waits: {why}"]
        assert problems() == [f"the watcher waits: {why}; {LOG}", f"web01: {FAILED.why}; {LOG}"]


def test_one_without_a_status(lines: Lines, problems: Lines, show: Show, watch_dir: Path) -> None:
    with watching(watch_dir, None):
        assert lines() == [f"watcher {WATCHER}; it has written no status"]
        assert problems() == [f"the watcher has written no status; {LOG}"]
        assert show("--json").json["watcher"] == {"running": True, "holder": WATCHER, "status": None}


@pytest.mark.parametrize("runs", [True, False])
def test_a_broken_file_hides_nothing_else(
    lines: Lines, problems: Lines, show: Show, watch_dir: Path, *, runs: bool
) -> None:
    watch_dir.mkdir()
    lock = files.Lock(watch_dir / watch_status.LOCK_NAME)
    assert not runs or lock.acquire(WATCHER) is None
    (watch_dir / watch_status.FILE_NAME).write_text("{")
    why = f"{watch_dir}/watch.json: not JSON: "
    try:
        (line,) = lines()
        (problem,) = problems()
        document = show("--json").json
    finally:
        lock.release()
    assert line.startswith(f"watcher {f'{WATCHER}; it is ' if runs else ''}not known what it does: {why}")
    assert problem.startswith(why)
    assert problem.endswith("; restart what writes it: virtrng-feeder or virtrng-watch")
    assert document["watcher"] == {"running": runs, "holder": WATCHER if runs else None, "status": None}
    assert document["feeder"]["fed"] is True
    assert [guest["name"] for guest in document["guests"]] == ["test"]


def test_the_watcher_beside_a_feeder_that_is_missing(show: Show, watch_dir: Path) -> None:
    with watching(watch_dir, replace(WATCHING, noted=(FAILED,))):
        ran = show("--check")
    assert ran.lines[0].startswith("no feeder runs; ")
    assert ran.lines[1:] == [f"web01: {FAILED.why}; {LOG}"]


def test_an_ordinary_user_sees_the_same(open_path: Path) -> None:
    def look() -> str:
        drop_to_nobody()
        found = status_watch.look(open_path)
        assert found is not None
        return str(found.holder)

    with watching(open_path):
        assert in_child(look) == WATCHER
    watch_status.write(open_path, replace(WATCHING, pid=2**22 + 1))  # above the highest there can be
    assert in_child(look) == "None"


# --- followed


def follow(
    steps: list[Callable[[], object]], show: Show, monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> list[str]:
    left = iter(steps)

    def pause() -> None:
        try:
            next(left)()
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(status_follow, "_pause", pause)
    return show("--follow", *arguments).lines


def steps(watch_dir: Path) -> list[Callable[[], object]]:
    """Return what the watcher does: it looks at all, then gives a device, then fails with one."""
    looked = replace(WATCHING, updated_at=2.0, last_pass_boottime_s=7.0)
    given = replace(looked, guests={"managed": 38}, changes=1)
    failed = replace(given, guests={"managed": 37, "failed": 1}, noted=(FAILED,))
    return [
        lambda: watch_status.write(watch_dir, looked),
        lambda: watch_status.write(watch_dir, given),
        lambda: watch_status.write(watch_dir, failed),
    ]


def test_a_pipe_gets_what_changes(show: Show, watch_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(watch_dir):
        told = [line.split(" ", 1)[1] for line in follow(steps(watch_dir), show, monkeypatch)]
    assert [line for line in told if line.startswith(("watcher", " "))] == [
        f"watcher {WATCHER}: 37 guests managed",
        f"watcher {WATCHER}: 38 guests managed",
        f"watcher {WATCHER}: 37 guests managed, 1 failed",
        f"        web01: {FAILED.why}",
    ]


def test_lines_of_json(show: Show, watch_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(watch_dir):
        told = follow([*steps(watch_dir), lambda: None], show, monkeypatch, "--json")
    guests = [json.loads(line)["watcher"]["status"]["guests"] for line in told]
    assert guests == [{"managed": 37}, {"managed": 38}, {"managed": 37, "failed": 1}]


@pytest.mark.parametrize("kind", [WatchStatus, Noted, Latency])
def test_the_document_about_it_names_every_field(kind: type) -> None:
    rows = (ROOT / "docs" / "watch.json.md").read_text().splitlines()
    named = {
        name for row in rows if row.startswith("| `") for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert {field.name for field in dataclasses.fields(kind)} | set(STANDINGS) <= named


def test_the_document_about_it_tells_the_bounds() -> None:
    text = (ROOT / "docs" / "watch.json.md").read_text()
    *most, last = [f"{bound:g}" for bound in LATENCY_BOUNDS_S]
    assert f"{', '.join(most)} and {last} s" in text
