# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the feeder publishes, and that there is one feeder a run_dir."""

import os
import resource
import stat
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.unit.feeder.blocks import BIASED, STUCK
from tests.unit.feeder.rig import Counters, Rig, Telemetry, admitted, used
from tests.unit.support import child_after, in_child
from virtrng import files, status
from virtrng.errors import FeederRunning, KeySelfStopped
from virtrng.feeder import daemon
from virtrng.status import FeederStatus, KeyStatus


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "run")


def looking(rig: Rig) -> tuple[list[FeederStatus], Callable[[], None]]:
    """Return what was seen, and what has a key see feeder.json a little later."""
    seen: list[FeederStatus] = []
    return seen, lambda: seen.append(rig.status)


def test_it_tells_what_happened(rig: Rig) -> None:
    seen, look = looking(rig)
    rig.run(rig.key(look, None, *admitted(*used(1), None, look, BIASED, None, look, STUCK, None, look)))
    assert [[key.state for key in one.keys] for one in seen] == [["probe"], ["ok"], ["ok"], ["suspect"]]
    (key,) = rig.status.keys
    blocks = len(admitted()) + 3
    assert (key.kind, key.serial, key.frames_bad, key.sessions) == ("entropykey", "x", 2, 1)
    assert (key.bytes_read, key.blocks_tested, key.blocks_failed) == (2500 * blocks, blocks, 2)
    assert (key.failures["monobit"], key.failures["repetition_count"]) == (2, 1)
    assert 0.0 < key.failure_rate < 0.01
    assert key.reason
    assert key.last_fault
    last = rig.status
    assert (last.pid, last.kernel.seeds, last.kernel.seeded_bits) == (os.getpid(), 1, 256)
    assert stat.S_IMODE((rig.run_dir / status.FILE_NAME).stat().st_mode) == 0o644


def test_it_tells_since_when_no_key_feeds(rig: Rig) -> None:
    seen, look = looking(rig)
    rig.run(rig.key(look, *admitted(*used(1), None, look, STUCK, None, look)))
    before, during, after = (one.unfed_since_boottime_s for one in seen)
    assert before == seen[0].started_boottime_s == 1000.0
    assert during is None
    assert after is not None
    assert after > 1000.0 + len(admitted())


def test_it_tells_until_when_a_key_is_in_quarantine(rig: Rig) -> None:
    rig.run(rig.key(STUCK, STUCK[::-1], *[None] * 9), for_s=5.0)
    (key,) = rig.status.keys
    assert (key.state, key.quarantines) == ("quarantine", 1)
    assert key.until_boottime_s is not None
    assert 1059.0 <= key.until_boottime_s <= 1065.0


def test_what_a_key_says_of_itself_is_in_it(rig: Rig) -> None:
    key = rig.key(*used(1))
    key.counters.telemetry = Telemetry({"temperature_k": 314.3}, "no failure")
    rig.run(key)
    assert (rig.status.keys[0].telemetry, rig.status.keys[0].verdict) == (
        {"temperature_k": 314.3},
        "no failure",
    )


def test_the_last_that_a_key_said_is_kept_when_it_fails_and_when_it_has_gone(rig: Rig) -> None:
    def stop_itself() -> None:
        key.counters = Counters(5, 1, Telemetry({"temperature_k": 390.0}, "its temperature is too high"))
        raise KeySelfStopped("K", "8", "its temperature is too high")

    key = rig.key(*used(1), stop_itself)
    found: list[KeyStatus] = []
    rig.at(2.6, lambda: found.append(rig.status.keys[0]))
    rig.at(2.7, rig.plugged.clear)
    rig.run(key, for_s=10.0)
    found.append(rig.status.keys[0])
    assert [one.state for one in found] == ["failed", "absent"]
    for seen in found:
        assert (seen.telemetry, seen.verdict) == ({"temperature_k": 390.0}, "its temperature is too high")
        assert (seen.frames_bad, seen.bytes_read) == (5, 2500)
        assert seen.last_fault == "K has stopped itself: its temperature is too high (badness '8')"


def test_the_latest_is_at_hand_without_the_file(rig: Rig) -> None:
    feeder = rig.feeder()
    assert feeder.latest is None
    rig.at(3.0, rig.bell.stop)
    feeder.run()
    assert feeder.latest == rig.status


def test_it_is_replaced_once_a_second_and_never_in_part(rig: Rig) -> None:
    inodes: list[int] = []

    def look() -> None:
        inodes.append((rig.run_dir / status.FILE_NAME).stat().st_ino)
        assert set(os.listdir(rig.run_dir)) == {status.FILE_NAME, status.LOCK_NAME}

    for number in range(1, 41):
        rig.at(number / 4, look)
    rig.run(for_s=11.0)
    assert sum(before != after for before, after in pairwise(inodes)) in (9, 10)


@pytest.mark.parametrize("lasts", ["for ever", "for a while"])
def test_a_full_disk_costs_the_status_and_never_the_feeding(rig: Rig, lasts: str) -> None:
    told: list[str] = []

    def feed() -> str:
        daemon.log.addFilter(lambda record: told.append(record.getMessage()) or True)  # type: ignore[func-returns-value]
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        if lasts == "for a while":
            rig.at(12.0, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)))
        rig.run(rig.key(*admitted(*used(24))))
        file = [text.replace(str(rig.run_dir), "") for text in told if status.FILE_NAME in text]
        return f"{len(rig.seeds)} seeds; {'; '.join(file)}"

    again = "; /feeder.json is written again" if lasts == "for a while" else ""
    assert in_child(feed) == (
        f"4 seeds; cannot write /feeder.json: File too large; feeding goes on without it{again}"
    )
    assert (rig.run_dir / status.FILE_NAME).exists() == bool(again)


# --- one feeder a run_dir


@pytest.mark.parametrize("content", ["none", "a status", "garbage"])
def test_a_second_feeder_is_told_who_runs(rig: Rig, content: str) -> None:
    rig.run(rig.key(*used(1)))
    file = rig.run_dir / status.FILE_NAME
    if content == "none":
        file.unlink()
    if content == "garbage":
        file.write_text("{")
    there = {path: path.read_bytes() for path in rig.run_dir.iterdir() if path.name != status.LOCK_NAME}

    def hold() -> files.Lock:
        lock = files.Lock(rig.run_dir / status.LOCK_NAME)
        assert lock.acquire(f"virtrng feed (pid {os.getpid()})") is None
        return lock

    other = Rig(rig.run_dir)
    with child_after(hold) as pid, pytest.raises(FeederRunning) as caught:
        other.run(other.key())
    what = "entropykey:serial=x" if content == "a status" else str(rig.run_dir)
    assert str(caught.value) == f"{what} is in use by virtrng feed (pid {pid})"
    assert other.plugged["port 0"].opened == 0
    assert {
        path: path.read_bytes() for path in rig.run_dir.iterdir() if path.name != status.LOCK_NAME
    } == there
