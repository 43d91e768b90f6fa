# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fault catalogue, second part: what may go wrong around a key, against the whole feeder."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.lab import host_init
from tests.lab.feeder_rig import Rig
from tests.unit.support import ROOT, in_child
from virtrng import status
from virtrng.errors import FileFailed, KernelRefused
from virtrng.feeder import daemon


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with Rig(tmp_path, monkeypatch) as made:
        yield made


# --- time


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_jump_of_the_wall_clock_changes_no_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    with Rig(tmp_path, monkeypatch, interval_s=20) as rig:
        rig.plug(rig.key())
        rig.until_fed()
        there = SimpleNamespace(time=lambda: time.time() + jump_s, monotonic=time.monotonic)
        monkeypatch.setattr(daemon, "time", there)
        found = rig.until(lambda found: abs(found.updated_at - there.time()) < 60, "the new time")
        age_s = found.seed_age_s(rig.boottime())
        assert age_s is not None
        assert 0 <= age_s < 20
        rig.until_tested(20)
        assert len(rig.recorder.seeds) == 1
        rig.later(20)
        found = rig.until_fed()
        age_s = found.seed_age_s(rig.boottime())
        assert age_s is not None
        assert 0 <= age_s < 20
        assert found.keys[0].state == "ok"
        rig.judge()


# --- /dev/random


def test_an_ioctl_that_is_refused_ends_it(rig: Rig) -> None:
    rig.feeding()
    rig.recorder.refuses = True
    assert isinstance(rig.ended(), KernelRefused)
    # The key is free, and so is run_dir.
    rig.recorder.refuses, rig.raised = False, None
    rig.restart()
    rig.until_fed(3)
    rig.judge()


def test_without_the_right_to_seed_it_says_so_and_does_not_begin(rig: Rig, tmp_path: Path) -> None:
    rig.key()
    words = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", *_feed(rig, tmp_path / "its")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "/dev/random refused RNDADDENTROPY: no CAP_SYS_ADMIN" in done.stderr


# --- two feeders


def _feed(rig: Rig, run_dir: Path) -> list[str]:
    """Return the command that feeds from the rig's key, with another run_dir or the same."""
    config = run_dir.with_suffix(".toml")
    config.write_text(f'[paths]\nrun_dir = "{run_dir}"\n')
    key = rig.run_dir.parent / "key"
    return [sys.executable, "-m", "virtrng", "--config-file", str(config), "feed", "--key",
            f"entropykey:{key}", "--keyring", str(rig.keyring)]  # fmt: skip


def test_a_second_feeder_of_one_run_dir_is_told_who_runs(rig: Rig) -> None:
    rig.feeding()
    done = subprocess.run(_feed(rig, rig.run_dir), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert f"is in use by virtrng feed (pid {os.getpid()})" in done.stderr
    rig.until_fed(3)
    rig.judge()


def test_a_second_feeder_of_one_key_waits_for_it(rig: Rig, tmp_path: Path) -> None:
    rig.feeding()
    its_run_dir = tmp_path / "its"
    with subprocess.Popen(_feed(rig, its_run_dir), stderr=subprocess.PIPE, text=True, cwd=ROOT) as second:
        try:

            def waits(_: object) -> bool:
                assert second.poll() is None, second.communicate()
                its = status.read(its_run_dir) if its_run_dir.exists() else None
                return bool(its and its.waiting and "is in use by" in its.waiting)

            rig.until(waits, "the second one to wait")
            rig.until_fed(3)
        finally:
            second.send_signal(signal.SIGTERM)
        _, said = second.communicate()
    assert second.returncode == 0, said
    assert said.count("is in use by") == 1
    rig.until_fed(3)
    rig.judge()


# --- run_dir


def _own_mounts(run_dir: Path) -> None:
    """Have a mount namespace of our own, in which 64 kB are all there is for `run_dir`."""
    assert host_init.libc.unshare(host_init.CLONE_NEWNS) == 0
    host_init.make_mounts_private()
    run_dir.mkdir()
    _mount("-o", "size=64k", "tmpfs", str(run_dir))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", *arguments], check=True)


@pytest.mark.parametrize(
    ("what", "why"), [("full", "No space left on device"), ("read-only", "Read-only file system")]
)
def test_where_run_dir_takes_nothing_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str, why: str
) -> None:
    def feed() -> str:
        rig = Rig(tmp_path, monkeypatch)
        _own_mounts(rig.run_dir)
        with rig:
            rig.feeding()
            _spoil(rig.run_dir, what)
            given = len(rig.recorder.seeds)

            def complaint() -> bool:
                if what == "full":  # again: a feeder.json that is being replaced gives back its page
                    _spoil(rig.run_dir, what)
                return "goes on without it" in caplog.text

            rig.wait(complaint, "complaint")
            rig.wait(lambda: len(rig.recorder.seeds) >= given + 20, "20 more seeds")
            _mend(rig.run_dir, what)
            rig.wait(lambda: "is written again" in caplog.text, "word that it is over")
            rig.until_fed(3)
            rig.judge()
        return "; ".join(record.getMessage() for record in caplog.records if record.name == daemon.__name__)

    caplog.set_level(logging.WARNING)
    file = tmp_path / "run" / status.FILE_NAME
    said = in_child(feed)
    assert said == f"cannot write {file}: {why}; feeding goes on without it; {file} is written again"


def _spoil(run_dir: Path, what: str) -> None:
    if what == "read-only":
        _mount("-o", "ro", "tmpfs", str(run_dir))
        return
    with suppress(OSError), (run_dir / "much").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def _mend(run_dir: Path, what: str) -> None:
    if what == "read-only":
        subprocess.run(["umount", str(run_dir)], check=True)
    else:
        (run_dir / "much").unlink()


def test_where_run_dir_is_read_only_from_the_first_it_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def feed() -> str:
        rig = Rig(tmp_path, monkeypatch)
        _own_mounts(rig.run_dir)
        _spoil(rig.run_dir, "read-only")
        with rig:
            error = rig.ended()
        return f"{type(error).__name__}: {error}"

    said = in_child(feed)
    assert said.startswith(FileFailed.__name__)
    assert said.endswith("Read-only file system")
