# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's daemon as a process: here a program of that name which runs the hooks on itself at SIGHUP."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtrng.domain import daemon
from virtrng.domain.daemon import Daemon
from virtrng.errors import FileFailed, NotReloaded, OldLibvirt

PROGRAM = """#!/usr/bin/python3 -IS
import pathlib, signal, subprocess, sys
left = int(sys.argv[2])
def reload(*_):
    global left
    left -= 1
    if left < 0:  # libvirtd ignores it while a reload is under way
        for hook in pathlib.Path(sys.argv[1]).glob("daemon.d/*"):
            subprocess.run([hook, "-", "reload", "begin", "SIGHUP"])
signal.signal(signal.SIGHUP, reload)
print("ready", flush=True)
sys.stdin.read()
"""


class Stand:
    """A program that stands for libvirtd, and where it looks."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.hooks = base / "hooks"
        self.program = base / "libvirtd"
        self.program.write_text(PROGRAM)
        self.program.chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, ignores: int = 0) -> int:
        """Start it; it ignores that many times that it is told to reload."""
        command = [str(self.program), str(self.hooks), str(ignores)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        (self.base / "libvirtd.pid").write_text(f"{self.process.pid}\n")
        return self.process.pid

    def end(self) -> None:
        if self.process:
            self.process.communicate()

    def put_systemctl(self, script: str) -> None:
        """Have systemd here, as far as can be seen."""
        (self.base / "systemd").mkdir()
        program = self.base / "bin" / "systemctl"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    monkeypatch.setattr(daemon, "RUN_DIR", tmp_path)
    monkeypatch.setattr(daemon, "SYSTEMD", tmp_path / "systemd")
    monkeypatch.setattr(daemon, "AGAIN_S", 0.05)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    stand = Stand(tmp_path)
    yield stand
    stand.end()


def test_one_that_runs_is_found_with_its_start(stand: Stand) -> None:
    assert daemon.running() == []
    before_s = time.time()
    pid = stand.start()
    (found,) = daemon.running()
    assert (found.name, found.pid) == ("libvirtd", pid)
    assert before_s - 0.05 <= found.loaded_at_s <= time.time() + 0.05, "clock ticks are 10 ms"


@pytest.mark.parametrize("text", ["", "x", "-1", "999999999", "ours"])
def test_a_file_of_one_that_has_ended_counts_for_nothing(text: str, stand: Stand) -> None:
    (stand.base / "libvirtd.pid").write_text(text.replace("ours", f"{os.getpid()}"))
    assert daemon.running() == []


def test_what_it_may_know_of() -> None:
    found = Daemon("libvirtd", 1, 1000.0)
    assert not found.may_know([])
    assert not found.may_know([1000.1, 2000.0])
    assert found.may_know([2000.0, 999.0])


@pytest.mark.parametrize("ignores", [0, 2])
@pytest.mark.parametrize("existed", [True, False])
def test_it_reloads_and_nothing_is_left(ignores: int, *, existed: bool, stand: Stand) -> None:
    stand.start(ignores)
    if existed:
        (stand.hooks / "daemon.d").mkdir(parents=True)
    before = sorted(stand.base.rglob("*"))
    (found,) = daemon.running()
    daemon.reload(found, stand.hooks)
    after = [path for path in sorted(stand.base.rglob("*")) if path != stand.hooks]
    assert after == [path for path in before if path != stand.hooks]


def test_what_a_run_that_was_killed_has_left_goes_too(stand: Stand) -> None:
    stand.start()
    directory = stand.hooks / "daemon.d"
    directory.mkdir(parents=True)
    for name in ("virtrng-reload-1", "theirs"):
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    (found,) = daemon.running()
    daemon.reload(found, stand.hooks)
    assert [path.name for path in directory.iterdir()] == ["theirs"]


def test_one_that_runs_no_hook_is_not_believed(stand: Stand) -> None:
    stand.start(10**6)
    (found,) = daemon.running()
    with pytest.raises(
        NotReloaded, match="libvirtd has not looked for hooks anew: it ran no hook within 0 s"
    ):
        daemon.reload(found, stand.hooks, limit_s=0.3)
    assert not (stand.hooks / "daemon.d").exists()


def test_one_that_has_gone(stand: Stand) -> None:
    stand.start()
    (found,) = daemon.running()
    stand.end()
    with pytest.raises(NotReloaded, match="No such process"):
        daemon.reload(found, stand.hooks)


def test_a_place_that_cannot_be_written(stand: Stand) -> None:
    stand.hooks.write_text("")
    with pytest.raises(FileFailed):
        daemon.reload(Daemon("libvirtd", 1, 0.0), stand.hooks)


def test_where_systemd_runs_it_is_asked(stand: Stand) -> None:
    pid = stand.start()
    stand.put_systemctl(f'[ "$1 $2" != "reload libvirtd.service" ] || kill -HUP {pid}')
    (found,) = daemon.running()
    daemon.reload(found, stand.hooks)


def test_what_systemd_says_is_told(stand: Stand) -> None:
    stand.put_systemctl("echo 'Job type reload is not applicable' >&2; exit 1")
    with pytest.raises(NotReloaded, match="Job type reload is not applicable") as caught:
        daemon.reload(Daemon("virtqemud", 1, 0.0), stand.hooks)
    assert "systemctl restart virtqemud" in caught.value.remedy


@pytest.mark.parametrize("later_s", [100.0, -100.0])
def test_systemd_knows_of_a_later_reload(later_s: float, stand: Stand) -> None:
    stand.start()
    (before,) = daemon.running()
    at_us = int((time.monotonic() + later_s) * 1e6)
    stand.put_systemctl(f'[ "$1" = show ] && echo {at_us}')
    (found,) = daemon.running()
    expected_s = max(before.loaded_at_s, time.time() + later_s)
    assert found.loaded_at_s == pytest.approx(expected_s, abs=1.0)


@pytest.mark.parametrize("script", ["exit 1", "echo", "echo '[not set]'"])
def test_a_systemd_that_cannot_tell(script: str, stand: Stand) -> None:
    stand.start()
    stand.put_systemctl(script)
    (found,) = daemon.running()
    assert found.loaded_at_s == pytest.approx(time.time(), abs=30.0)


@pytest.mark.parametrize(
    ("said", "version"),
    [("echo '/usr/sbin/libvirtd (libvirt) 11.3.0'", (11, 3, 0)), ("echo 'x (libvirt) 6.4.9'", (6, 4, 9)),
     ("echo nothing", None), ("exit 1", None)],
)  # fmt: skip
def test_the_version_is_asked_of_the_program(
    said: str, version: tuple[int, int, int] | None, stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && {said}\n')
    monkeypatch.setattr(daemon, "SBIN", str(stand.base))
    monkeypatch.setenv("PATH", "/nonexistent")
    assert daemon.installed_version() == version


def test_where_there_is_no_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(daemon, "SBIN", str(tmp_path))
    monkeypatch.setenv("PATH", "/nonexistent")
    assert daemon.installed_version() is None
    for name in daemon.NAMES:
        (tmp_path / name).write_text("no program")
        (tmp_path / name).chmod(0o755)
    assert daemon.installed_version() is None


def test_versions() -> None:
    for version in (None, (6, 5, 0), (10, 0, 0)):
        daemon.check_version(version)
    with pytest.raises(OldLibvirt, match=r"libvirt 6\.4\.9 runs no hook but hooks/qemu"):
        daemon.check_version((6, 4, 9))
