# SPDX-License-Identifier: LGPL-2.1-or-later
"""The feeder's loop: what reaches the injector and when, and what becomes of trouble."""

import hashlib
import logging
import os
import resource
import stat
from itertools import pairwise
from pathlib import Path

import pytest

from tests.unit.feeder.blocks import BIASED, STUCK, clean
from tests.unit.feeder.rig import Rig, Telemetry, make_rig
from tests.unit.support import child_after, in_child
from virtrng import files, kernel, status
from virtrng.config import FeederSettings
from virtrng.errors import (
    FeederRunning,
    KernelRefused,
    KeyDenied,
    KeyLost,
    KeySelfStopped,
    KeySilent,
    NoLongTermKey,
    WrongLongTermKey,
)
from virtrng.feeder import daemon
from virtrng.keys.entropykey import EntropyKey
from virtrng.sim.entropykey import simulated


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return make_rig(tmp_path / "run", monkeypatch)


def sha256(*blocks: bytes) -> bytes:
    return hashlib.sha256(b"".join(blocks)).digest()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().split("\n")[0] for record in caplog.records if record.name == daemon.__name__
            and record.levelno >= logging.WARNING]  # fmt: skip


# --- seeds


def test_a_seed_at_once_then_at_the_interval_then_a_last_one(rig: Rig) -> None:
    blocks = [clean(number) for number in range(24)]
    rig.run(rig.key(*blocks))
    times = [at for at, _, _ in rig.recorder.seeds]
    assert [at - times[0] for at in times] == [0.0, 10.0, 20.0, 24.0]
    cuts = (0, 1, 11, 21, 24)
    expected = [sha256(*blocks[a:b]) for a, b in pairwise(cuts)]
    assert [seed.data for seed in rig.seeds] == expected
    assert [bytes_ for _, _, bytes_ in rig.recorder.seeds] == [2500, 25_000, 25_000, 7500]
    assert {seed.entropy_bits for seed in rig.seeds} == {256}


def test_the_interval_is_the_configured_one(rig: Rig) -> None:
    rig.settings = FeederSettings(interval_s=3)
    rig.run(rig.key(*(clean(number) for number in range(8))))
    times = [at for at, _, _ in rig.recorder.seeds]
    assert [at - times[0] for at in times] == [0.0, 3.0, 6.0, 8.0]


def test_without_noise_there_is_no_seed(rig: Rig) -> None:
    rig.run(rig.key(*[None] * 30))
    assert rig.seeds == []


def test_noise_that_is_worth_little_is_gathered(rig: Rig) -> None:
    # 2,500 bytes claimed at 100 bits: four of them are worth a seed of 320, three are not.
    blocks = [clean(number) for number in range(4)]
    rig.run(rig.key(*blocks[:3], claimed_bits=100))
    assert rig.seeds == []
    rig.stop.clear()
    rig.run(rig.key(*blocks, claimed_bits=100))
    assert [seed.data for seed in rig.seeds] == [sha256(*blocks)]


def test_until_the_generator_is_ready_each_block_counts(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "crng_ready", lambda: False)
    rig.run(rig.key(clean(0), clean(1), clean(2)))
    assert [seed.data for seed in rig.seeds] == [sha256(clean(number)) for number in range(3)]


def test_a_simulated_key_is_never_credited(rig: Rig) -> None:
    rig.run(rig.key(*(clean(number) for number in range(24)), simulated=True))
    assert len(rig.seeds) == 4
    assert {seed.entropy_bits for seed in rig.seeds} == {0}
    found = status.read(rig.run_dir)
    assert found is not None
    assert found.keys[0].simulated


# --- bad bytes


def test_a_failed_block_is_in_no_seed(rig: Rig) -> None:
    rig.run(rig.key(clean(0), clean(1), BIASED, clean(2)))
    assert [seed.data for seed in rig.seeds] == [sha256(clean(0)), sha256(clean(1), clean(2))]


def test_nothing_near_an_alarm_is_in_a_seed(rig: Rig) -> None:
    late = [clean(number) for number in range(2, 63)]
    rig.run(rig.key(clean(0), clean(1), STUCK, *late))
    # What was gathered before it goes too; the quarantine of 60 s ends with the 60th block after it.
    assert [seed.data for seed in rig.seeds] == [sha256(clean(0)), sha256(late[59]), sha256(late[60])]


def test_a_key_that_is_dead_from_the_first_gives_nothing(rig: Rig) -> None:
    rig.run(rig.key(*[bytes(2500)] * 100))
    assert rig.seeds == []
    found = status.read(rig.run_dir)
    assert found is not None
    assert (found.keys[0].state, found.keys[0].blocks_failed) == ("quarantine", 100)


# --- keys that come and go


def test_a_lost_key_is_reported_once_and_taken_again(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    lost = rig.key(clean(0), clean(1), KeyLost("K", "being read"))
    again = rig.key(clean(2))
    rig.rounds = [[], [], [], [again]]
    rig.run(lost)
    # Of clean(1), which was gathered and not yet used, nothing goes into the next session.
    assert [seed.data for seed in rig.seeds] == [sha256(clean(0)), sha256(clean(2))]
    assert warnings(caplog) == [
        "K was lost while being read; waiting for a key",
        "no supported key is plugged in; waiting for a key",
    ]
    assert rig.stop.waited_s == [2.0] * 4 + [0.0]
    assert (lost.closed, again.closed) == (1, 1)


def test_lost_twice_is_said_twice(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.rounds = [[rig.key(KeyLost("K", "being read"))], [rig.key()]]
    rig.run(rig.key(KeyLost("K", "being read")))
    assert len(warnings(caplog)) == 2


def test_with_no_key_it_waits_and_says_so_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.run()
    assert rig.stop.waited_s == [2.0] * 20
    assert rig.looks == 20
    assert warnings(caplog) == ["no supported key is plugged in; waiting for a key"]
    assert rig.seeds == []
    found = status.read(rig.run_dir)
    assert found is not None
    assert (found.keys, found.waiting) == ((), "no supported key is plugged in")


def _troubled(rig: Rig, trouble: Exception) -> list[object]:
    key = rig.key()
    key.start_trouble = trouble
    return [key]


def test_each_of_two_troubled_keys_is_reported_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    both = [*_troubled(rig, KeyDenied("A", "/a")), *_troubled(rig, NoLongTermKey("B", "/k"))]
    rig.rounds = [list(both) for _ in range(5)]  # type: ignore[arg-type]
    rig.run(*both)  # type: ignore[arg-type]
    assert warnings(caplog) == [
        "no permission to open A at /a; waiting for a key",
        "/k has no long-term key for the Entropy Key B; waiting for a key",
        "no supported key is plugged in; waiting for a key",
    ]


def test_how_long_a_key_was_silent_is_no_news(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.rounds = [_troubled(rig, KeySilent("A", 10_000 + number)) for number in range(5)]  # type: ignore[misc]
    rig.rounds.append([])
    rig.rounds.append(_troubled(rig, KeySilent("A", 9)))  # type: ignore[arg-type]
    rig.run(*_troubled(rig, KeySilent("A", 9_999)))  # type: ignore[arg-type]
    assert warnings(caplog)[0] == "A gave no valid frame for 9999 ms; waiting for a key"
    assert warnings(caplog)[2] == "A gave no valid frame for 9 ms; waiting for a key", (
        "there was none between"
    )
    assert len(warnings(caplog)) == 4


def test_the_second_key_serves_when_the_first_cannot(rig: Rig) -> None:
    bad, good = _troubled(rig, KeyDenied("A", "/a"))[0], rig.key(clean(0))
    rig.run(bad, good)  # type: ignore[arg-type]
    assert [seed.data for seed in rig.seeds] == [sha256(clean(0))]
    assert rig.stop.waited_s == [0.0]


def test_a_wrong_long_term_key_waits_for_half_a_minute(rig: Rig) -> None:
    good = rig.key(clean(0))
    rig.rounds = [[good] for _ in range(40)]
    rig.run(*_troubled(rig, WrongLongTermKey("A", "/k")))  # type: ignore[arg-type]
    assert sum(rig.stop.waited_s) == 30.0
    assert (good.closed, len(rig.seeds)) == (1, 1)


def test_trouble_that_is_not_of_a_key_ends_it(rig: Rig) -> None:
    key = rig.key(clean(0))
    rig.recorder.refuse_seeds = True
    with pytest.raises(KernelRefused):
        rig.run(key)
    assert key.closed == 1
    assert rig.recorder.open == 0
    assert files.holder(rig.run_dir / status.LOCK_NAME) is None


# --- the status file


def test_the_status_tells_what_happened(rig: Rig) -> None:
    seen: list[status.FeederStatus | None] = []
    look = lambda: seen.append(status.read(rig.run_dir))  # noqa: E731
    rig.run(rig.key(look, clean(0), look, BIASED, look, STUCK, look))
    states = [one and [key.state for key in one.keys] for one in seen]
    assert states == [[], ["ok"], ["ok"], ["quarantine"]]
    last = status.read(rig.run_dir)
    assert last is not None
    (key,) = last.keys
    assert (key.kind, key.serial, key.frames_bad, key.sessions) == ("entropykey", "x", 2, 1)
    assert (key.bytes_read, key.blocks_tested, key.blocks_failed) == (7500, 3, 2)
    assert key.last_fault is not None
    assert (last.pid, last.kernel.seeds, last.kernel.seeded_bits) == (os.getpid(), 1, 256)
    assert stat.S_IMODE((rig.run_dir / status.FILE_NAME).stat().st_mode) == 0o644


def test_what_a_key_says_of_itself_is_in_the_status(rig: Rig) -> None:
    key = rig.key(clean(0))
    key.counters.telemetry = Telemetry({"temperature_k": 314.3}, "no failure")
    rig.run(key)
    found = status.read(rig.run_dir)
    assert found is not None
    assert (found.keys[0].telemetry, found.keys[0].verdict) == ({"temperature_k": 314.3}, "no failure")


def test_the_last_that_a_key_said_is_kept_when_it_fails(rig: Rig) -> None:
    key = rig.key(clean(0))

    def stop_itself() -> None:
        key.counters.telemetry = Telemetry({"temperature_k": 390.0}, "its temperature is too high")
        key.counters.frames_bad = 5
        raise KeySelfStopped("K", "8", "its temperature is too high")

    key.steps = iter([clean(0), stop_itself])
    rig.stop.rounds_max = 1
    rig.run(key)
    found = status.read(rig.run_dir)
    assert found is not None
    (seen,) = found.keys
    assert (seen.telemetry, seen.verdict) == ({"temperature_k": 390.0}, "its temperature is too high")
    assert (seen.state, seen.frames_bad, seen.bytes_read) == ("absent", 5, 2500)
    assert seen.last_fault == "K has stopped itself: its temperature is too high (badness '8')"


def test_it_is_replaced_once_a_second_and_never_in_part(rig: Rig) -> None:
    inodes: list[int] = []

    def look() -> None:
        rig.clock.now_s -= 0.5
        inodes.append((rig.run_dir / status.FILE_NAME).stat().st_ino)
        assert os.listdir(rig.run_dir).count(status.FILE_NAME) == len(os.listdir(rig.run_dir)) - 1

    rig.run(rig.key(*[look] * 8))
    changes = sum(before != after for before, after in pairwise(inodes))
    assert 3 <= changes <= 4


def test_a_lost_key_is_absent_in_the_status(rig: Rig) -> None:
    rig.stop.rounds_max = 1
    rig.run(rig.key(clean(0), KeyLost("K", "being read")))
    found = status.read(rig.run_dir)
    assert found is not None
    assert (found.keys[0].state, found.keys[0].last_fault) == ("absent", "K was lost while being read")


def test_a_full_disk_costs_the_status_and_never_the_feeding(rig: Rig) -> None:
    errors: list[str] = []
    daemon.log.addFilter(lambda record: errors.append(record.getMessage()) or True)  # type: ignore[func-returns-value]

    def feed() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        rig.run(rig.key(*(clean(number) for number in range(24))))
        told = [text for text in errors if "without it" in text]
        return f"{len(rig.seeds)} seeds, {len(told)} complaint: {told[0]}"

    try:
        said = in_child(feed)
    finally:
        daemon.log.filters.clear()
    file = rig.run_dir / status.FILE_NAME
    assert said == f"4 seeds, 1 complaint: cannot write {file}: File too large; feeding goes on without it"
    assert not file.exists()


# --- one feeder a run_dir


@pytest.mark.parametrize("content", ["none", "a status", "garbage"])
def test_a_second_feeder_is_told_who_runs(rig: Rig, content: str) -> None:
    rig.stop.rounds_max = 1
    rig.run(rig.key(clean(0)))
    file = rig.run_dir / status.FILE_NAME
    if content == "none":
        file.unlink()
    if content == "garbage":
        file.write_text("{")

    def hold() -> files.Lock:
        lock = files.Lock(rig.run_dir / status.LOCK_NAME)
        assert lock.acquire(f"virtrng feed (pid {os.getpid()})") is None
        return lock

    with child_after(hold) as pid, pytest.raises(FeederRunning) as caught:
        rig.run(rig.key())
    what = "entropykey:serial=x" if content == "a status" else str(rig.run_dir)
    assert str(caught.value) == f"{what} is in use by virtrng feed (pid {pid})"
    assert rig.recorder.open == 0


def test_where_the_kernel_refuses_it_does_not_begin(rig: Rig) -> None:
    rig.recorder.refuse = True
    with pytest.raises(KernelRefused):
        rig.run(rig.key(clean(0)))
    assert rig.looks == 0
    assert not (rig.run_dir / status.FILE_NAME).exists()
    assert files.holder(rig.run_dir / status.LOCK_NAME) is None


# --- a whole key


def test_the_simulated_entropy_key_by_the_clock(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    transport, long_term_key = simulated(rate_bytes_per_s=1000.0, clock=rig.clock, sleep=rig.clock.sleep)
    key = EntropyKey(transport, lambda _serial: long_term_key, min_entropy=0.5, clock=rig.clock)
    read, ends_at_s = key.read, rig.clock() + 26.0

    def read_until(timeout_ms: int) -> object:
        if rig.clock() >= ends_at_s:
            rig.stop.set()
        return read(timeout_ms)

    key.read = read_until  # type: ignore[method-assign, assignment]
    rig.run(key)
    times = [at for at, _, _ in rig.recorder.seeds]
    first, second, third = times[:3]
    # The clock is looked at after each read, which may take half a second and bring a block.
    assert 10.0 <= second - first < 10.7
    assert 10.0 <= third - second < 10.7
    assert {seed.entropy_bits for seed in rig.seeds} == {0}
    found = status.read(rig.run_dir)
    assert found is not None
    assert found.kernel.bytes_passed == found.keys[0].blocks_tested * 2500 > 20_000
    messages = [record.getMessage() for record in caplog.records if record.name == daemon.__name__]
    assert messages[0].endswith("session established, simulated by virtrng: mixed in with a credit of 0")
    assert "0 bits credited, in effect at once" in messages[1]
