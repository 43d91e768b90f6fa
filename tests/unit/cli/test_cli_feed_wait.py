# SPDX-License-Identifier: LGPL-2.1-or-later
"""The boot gate: `virtrng feed --wait BYTES`, beside a feeder, among feeders, and alone."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.test_cli_feed import REFUSED, feeding, line_with
from tests.unit.feeder.rig import Clock
from tests.unit.support import child_after, is_root, virtrng
from tests.unit.transport.served import KEYRING_LINE, on_a_pty
from virtrng import files, status
from virtrng.cli import feed_wait
from virtrng.cli.feed_wait import Gate, Passed, watch
from virtrng.errors import ExitCode, FedTooLittle
from virtrng.status import FeederStatus, KernelStatus


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "virtrng.toml"
    file.write_text(f"[paths]\nrun_dir = '{tmp_path}/run'\n")
    return file


def said(passed_bytes: int, pid: int = 7, started_s: float | None = 100.0) -> FeederStatus:
    kernel = KernelStatus(1, 256, passed_bytes, 1.0, 2.0, 256)
    return FeederStatus(1.0, pid, (), kernel, started_boottime_s=started_s)


# --- what is counted


def test_what_was_fed_before_does_not_count() -> None:
    passed = Passed(said(10_000))
    for now in (10_000, 12_500, 12_500, 20_000):
        passed.tell(said(now))
    assert passed.total_bytes == 10_000


@pytest.mark.parametrize("other", [said(2500, pid=8), said(2500, started_s=200.0)])
def test_a_feeder_that_is_started_anew_counts_anew(other: FeederStatus) -> None:
    passed = Passed(said(10_000))
    passed.tell(said(12_500))
    passed.tell(other)
    assert passed.total_bytes == 5000
    passed.tell(dataclasses.replace(other, kernel=said(7500).kernel))
    assert passed.total_bytes == 10_000


def test_where_nothing_was_written_yet_all_counts() -> None:
    passed = Passed(None)
    passed.tell(None)
    passed.tell(said(2500))
    passed.tell(None)
    passed.tell(said(5000))
    assert passed.total_bytes == 5000


# --- beside a feeder


class Scene:
    """What feeder.json says, second by second."""

    def __init__(self, run_dir: Path, *pages: FeederStatus | bytes | None) -> None:
        self.run_dir, self.pages, self.clock = run_dir, list(pages), Clock()
        run_dir.mkdir()
        self.turn()

    def turn(self, waited_s: float = 0.0) -> None:
        self.clock.sleep(waited_s)
        page = self.pages.pop(0) if self.pages else None
        if isinstance(page, FeederStatus):
            status.write(self.run_dir, page)
        elif page is not None:
            (self.run_dir / status.FILE_NAME).write_bytes(page)

    def watched(self, wanted_bytes: int, timeout_s: float = 100.0) -> Gate:
        gate = Gate(wanted_bytes, timeout_s, self.clock)
        watch(self.run_dir, gate, self.turn)
        return gate


def test_it_is_open_when_so_much_was_fed(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "run", said(50_000), said(50_000), b"{", said(52_500), said(2500, pid=8))
    gate = scene.watched(5000)
    assert (gate.fed_bytes, gate.waited_s) == (5000, 4 * feed_wait.LOOK_S)


def test_it_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    gate = Scene(tmp_path / "run", said(50_000), said(52_500)).watched(5000, timeout_s=7.25)
    assert (gate.fed_bytes, gate.waited_s) == (2500, 7.25)


def test_a_feeder_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    assert Scene(tmp_path / "run", None, None, said(2500)).watched(2500).fed_bytes == 2500


def beside_a_feeder(run_dir: Path, act: Callable[[int], object]) -> None:
    def hold() -> files.Lock:
        lock = files.Lock(run_dir / status.LOCK_NAME)
        assert lock.acquire("a feeder") is None
        return lock

    with child_after(hold) as pid:
        act(pid)


def test_beside_a_feeder_it_opens_no_key_and_needs_no_privilege(config_file: Path, tmp_path: Path) -> None:
    def gate(pid: int) -> None:
        status.write(tmp_path / "run", said(2500, pid=pid))
        ended = virtrng("--config-file", str(config_file), "feed", "--wait", "1", "--timeout", "1")
        assert ended.returncode == ExitCode.FAILED
        trouble = FedTooLittle(0, 1, 1)
        assert ended.stderr.decode().splitlines() == [f"virtrng: {trouble}", f"  {trouble.remedy}"]

    beside_a_feeder(tmp_path / "run", gate)


# --- alone


def test_alone_it_feeds_and_ends(config_file: Path, tmp_path: Path) -> None:
    keyring, link = tmp_path / "keyring", tmp_path / "link"
    keyring.write_text(KEYRING_LINE)
    keyring.chmod(0o600)
    key = ("--key", f"entropykey:{link}", "--keyring", str(keyring))
    with on_a_pty(link), feeding(config_file, *key, "--wait", "5000") as process:
        if not is_root():
            assert line_with(process, "refused") == REFUSED
            return
        assert process.wait() == 0
    found = status.read(tmp_path / "run")
    assert found is not None
    assert found.kernel.bytes_passed >= 5000


def test_alone_without_a_key_it_gives_up(config_file: Path) -> None:
    with feeding(config_file, "--key", "none", "--wait", "5000", "--timeout", "1") as process:
        told = line_with(process, "virtrng:")
        assert process.wait() == ExitCode.FAILED
    assert told == (REFUSED if not is_root() else f"virtrng: {FedTooLittle(0, 5000, 1)}")


@pytest.mark.parametrize("wrong", ["0", "-1", "x", "1.5", ""])
def test_what_it_waits_for_is_a_number(wrong: str) -> None:
    ended = virtrng("feed", f"--wait={wrong}")
    assert ended.returncode == ExitCode.USAGE
    assert "is not a number, 1 or more" in ended.stderr.decode()
