# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the feeder's loop gives to the injector, and when."""

import hashlib
import logging
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.unit.feeder.blocks import BIASED, STUCK, clean
from tests.unit.feeder.rig import Rig, admitted, used
from virtrng import files, kernel, service, status
from virtrng.config import FeederSettings
from virtrng.errors import InjectorLost, KernelRefused, KeyFault, KeyLost
from virtrng.feeder.source import Look, Source
from virtrng.feeder.states import State
from virtrng.keys.entropykey import EntropyKey
from virtrng.sim.entropykey import SimulatedEntropyKey, SimulatedTransport, seeded_noise


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "run")


def sha256(*blocks: bytes) -> bytes:
    return hashlib.sha256(b"".join(blocks)).digest()


def times(rig: Rig) -> list[float]:
    """Return when the seeds were given, from the first on."""
    return [at - rig.recorder.seeds[0][0] for at, _, _ in rig.recorder.seeds]


# --- one key


def test_a_seed_at_once_then_at_the_interval_then_a_last_one(rig: Rig) -> None:
    blocks = used(24)
    rig.run(rig.key(*admitted(*blocks)))
    assert times(rig) == [0.0, 10.0, 20.0, 24.0]
    expected = [sha256(*blocks[a:b]) for a, b in pairwise((0, 1, 11, 21, 24))]
    assert [seed.data for seed in rig.seeds] == expected
    assert [bytes_ for _, _, bytes_ in rig.recorder.seeds] == [2500, 25_000, 25_000, 7500]
    assert {seed.entropy_bits for seed in rig.seeds} == {256}


def test_the_interval_is_the_configured_one(rig: Rig) -> None:
    rig.settings = FeederSettings(interval_s=3)
    rig.run(rig.key(*admitted(*used(8))))
    assert times(rig) == [0.0, 3.0, 6.0, 8.0]


def test_without_noise_there_is_no_seed(rig: Rig) -> None:
    rig.run(rig.key(*[None] * 30))
    assert rig.seeds == []


def test_of_what_did_not_pass_the_start_up_nothing_is_used(rig: Rig) -> None:
    rig.run(rig.key(*admitted()))
    assert rig.seeds == []


def test_noise_that_is_worth_little_is_gathered(rig: Rig) -> None:
    # 2,500 bytes claimed at 100 bits: four of them are worth a seed of 320, three are not.
    rig.run(rig.key(*admitted(*used(3)), claimed_bits=100))
    assert rig.seeds == []
    other = Rig(rig.run_dir)
    other.run(other.key(*admitted(*used(4)), claimed_bits=100))
    assert [seed.data for seed in other.seeds] == [sha256(*used(4))]


def test_a_seed_that_is_overdue_is_given_as_soon_as_there_is_one(rig: Rig) -> None:
    # 100 bits a second: by then the interval of 2 s has passed twice.
    rig.settings = FeederSettings(interval_s=2)
    rig.run(rig.key(*admitted(*used(12)), claimed_bits=100))
    assert times(rig) == [0.0, 4.0, 8.0]


def test_until_the_generator_is_ready_each_block_counts(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "crng_ready", lambda: False)
    rig.run(rig.key(*admitted(*used(3))))
    assert [seed.data for seed in rig.seeds] == [sha256(block) for block in used(3)]
    assert not rig.status.kernel.crng_ready


def test_after_a_suspend_a_seed_is_given_at_once(rig: Rig) -> None:
    def suspend() -> None:
        rig.asleep_s += 5.0
        rig.clock.sleep(5.0)

    first, second, _ = used(3)
    rig.run(rig.key(*admitted(None, first, second, suspend, None, None)))
    assert [seed.data for seed in rig.seeds] == [sha256(first), sha256(second)]
    assert times(rig)[1] < 9.0


def test_a_step_of_the_wall_clock_changes_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    wall_s = [1e9]
    monkeypatch.setattr(time, "time", lambda: wall_s[0])
    for after_s, step_s in ((8.0, 3600.0), (16.0, -7200.0)):
        rig.at(after_s, lambda step_s=step_s: wall_s.append(wall_s.pop() + step_s))  # type: ignore[misc]
    rig.run(rig.key(*admitted(*used(24))))
    assert times(rig) == [0.0, 10.0, 20.0, 24.0]


def test_a_simulated_key_is_never_credited(rig: Rig) -> None:
    rig.run(rig.key(*admitted(*used(24)), simulated=True))
    assert len(rig.seeds) == 4
    assert {seed.entropy_bits for seed in rig.seeds} == {0}
    assert rig.status.keys[0].simulated


def test_however_fast_it_is_it_is_hashed_and_not_kept(rig: Rig) -> None:
    blocks = used(120)
    rig.run(rig.key(*admitted(*(b"".join(blocks[a : a + 40]) for a in (0, 40, 80))), claimed_bits=10_000))
    assert times(rig) == [0.0, 3.0]
    assert [seed.data for seed in rig.seeds] == [sha256(*blocks[:40]), sha256(*blocks[40:])]


# --- bad bytes


def test_a_failed_block_is_in_no_seed(rig: Rig) -> None:
    first, second, third = used(3)
    rig.run(rig.key(*admitted(first, second, BIASED, third)))
    assert [seed.data for seed in rig.seeds] == [sha256(first), sha256(second, third)]


def test_what_was_gathered_before_an_alarm_is_in_no_seed(rig: Rig) -> None:
    first, second = used(2)
    rig.run(rig.key(*admitted(first, second, STUCK)))
    assert [seed.data for seed in rig.seeds] == [sha256(first)]


def test_a_key_that_is_dead_from_the_first_gives_nothing(rig: Rig) -> None:
    key = rig.key(*[bytes(2500)] * 100)
    rig.run(key, for_s=100.0)
    assert rig.seeds == []
    (found,) = rig.status.keys
    assert found.state == "failed"
    assert found.reason
    assert (key.opened, key.closed) == (1, 1), "it is left alone"
    assert rig.status.waiting == f"entropykey:serial=x: {found.reason}"


def test_a_key_that_failed_stays_so_when_it_is_plugged_in_anew(rig: Rig) -> None:
    dead, again = rig.key(*[bytes(2500)] * 10), rig.key(*admitted(*used(5)))
    rig.at(20.0, lambda: rig.plugged.pop("port 0"))
    rig.at(30.0, lambda: rig.plugged.update({"port 5": again}))
    rig.run(dead, for_s=60.0)
    assert rig.seeds == []
    assert rig.status.keys[0].state == "failed"
    assert again.opened == 0, "its name is known before it is opened"


# --- several keys


def test_each_key_gives_seeds_of_its_own(rig: Rig) -> None:
    a, b = rig.key(*admitted(*used(9)), serial="a"), rig.key(*admitted(*used(9)), serial="b")
    rig.run(a, b, for_s=12.5)
    # The same bytes from two keys: never a hash over both.
    assert [seed.data for seed in rig.seeds[:2]] == [sha256(used(1)[0])] * 2
    assert {seed.entropy_bits for seed in rig.seeds} == {256}
    assert [key.state for key in rig.status.keys] == ["ok", "ok"]


def test_a_simulated_key_takes_no_credit_from_another_and_gives_it_none(rig: Rig) -> None:
    a = rig.key(*admitted(*used(30)), serial="a")
    b = rig.key(*admitted(*used(30)), serial="b", simulated=True)
    rig.run(a, b, for_s=25.0)
    credited = [seed.entropy_bits for seed in rig.seeds]
    assert credited.count(0) == credited.count(256) >= 3


def test_of_a_key_under_suspicion_nothing_is_used_and_of_the_others_all(rig: Rig) -> None:
    first, *rest = used(6)
    good = rig.key(*admitted(first, *rest), serial="a")
    bad = rig.key(*admitted(first, *rest[:2], STUCK), serial="b")
    rig.run(good, bad)
    assert [seed.data for seed in rig.seeds] == [sha256(first), sha256(first), sha256(*rest)]


def test_a_key_that_is_admitted_later_gives_a_seed_at_once(rig: Rig) -> None:
    a, b = rig.key(*admitted(*used(60)), serial="a"), rig.key(*admitted(*used(60)), serial="b")
    rig.at(14.5, lambda: rig.plugged.update({"port 1": b}))
    rig.run(a, for_s=23.0)
    assert [at for at in times(rig) if 10.0 < at < 19.0] == [15.0, 15.0]


@pytest.mark.parametrize(
    "trouble", [KeyFault("A", "broken"), KeyLost("A", "being read"), RuntimeError("bug")]
)
def test_what_befalls_one_key_costs_the_others_nothing(rig: Rig, trouble: Exception) -> None:
    bad = rig.key(*[trouble] * 20, serial="b")
    rig.run(rig.key(*admitted(*used(24)), serial="a"), bad)
    assert times(rig) == [0.0, 10.0, 20.0, 24.0]


def test_a_key_whose_driver_hangs_costs_the_others_nothing(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    hung = rig.key(*admitted(*used(2), lambda: setattr(rig.bell, "busy_s", 1e6)), serial="b")
    good = rig.key(*admitted(*used(60)), serial="a")
    rig.run(good, hung)
    assert [key.state for key in rig.status.keys] == ["ok", "probe"]
    assert rig.status.keys[1].reason == "its driver has not come back for 30 s"
    told = [record.getMessage() for record in caplog.records if "come back" in record.getMessage()]
    assert told[0] == "entropykey:serial=b: its driver has not come back for 30 s"
    assert len(times(rig)) >= 7


# --- what ends it


def test_enough_ends_it(rig: Rig) -> None:
    rig.plugged["port 0"] = rig.key(*admitted(*used(60)))
    rig.feeder(enough=lambda given: given.bytes_passed >= 20_000).run()
    assert rig.recorder.status.bytes_passed >= 20_000
    assert len(rig.seeds) == 2


@pytest.mark.parametrize("fault", ["refuses", "lost"])
def test_where_the_pool_cannot_be_seeded_it_ends(rig: Rig, fault: str) -> None:
    key = rig.key(*admitted(*used(3), lambda: setattr(rig.recorder, fault, True), *used(23)[3:]))
    with pytest.raises(KernelRefused if fault == "refuses" else InjectorLost):
        rig.run(key)
    assert key.closed == 1
    assert len(rig.seeds) == 1
    assert files.holder(rig.run_dir / status.LOCK_NAME) is None


def test_it_asks_once_a_second_whether_the_injector_lives(rig: Rig) -> None:
    rig.run(rig.key(*[None] * 30))
    assert {after - before for before, after in pairwise(rig.recorder.checks)} == {1.0}


def test_it_wakes_seldom(rig: Rig) -> None:
    rig.run(rig.key(*admitted(*used(300))))
    # Once a second for feeder.json; besides at each seed, and when one can be made.
    assert rig.bell.waits <= 1.3 * 300


# --- a whole key


def test_the_simulated_entropy_key_by_the_clock(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    # Of a perfect source one block in 1,260 fails: of this noise none does.
    firmware = SimulatedEntropyKey(
        long_term_key=bytes(32), now_s=rig.clock(), rate_bytes_per_s=4000.0, noise=seeded_noise(bytes(32))
    )
    transport = SimulatedTransport(firmware, clock=rig.clock, sleep=rig.clock.sleep)
    key = EntropyKey(transport, lambda _serial: bytes(32), min_entropy=0.5, clock=rig.clock)
    rig.look = lambda: Look((Source("simulated", "entropykey", "", "here", 0.5, lambda: key),))
    rig.run(for_s=30.0)
    first, second, third = times(rig)[:3]
    # The simulated clock moves on by what a read took, which may be a second.
    assert first == 0.0
    assert 10.0 <= second <= 11.0
    assert 20.0 <= third <= 22.0
    assert {seed.entropy_bits for seed in rig.seeds} == {0}
    (found,) = rig.status.keys
    assert found.state == State.OK.value
    assert rig.status.kernel.bytes_passed == (found.blocks_tested - len(admitted())) * 2500
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].endswith("session established, simulated by virtrng: mixed in with a credit of 0")
    assert any("0 bits credited, in effect at once" in message for message in messages)


# --- the service manager


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> list[tuple[float, str]]:
    """Record what the service manager is told, and when."""
    heard: list[tuple[float, str]] = []
    for name in ("ready", "stopping", "alive"):
        monkeypatch.setattr(service, name, lambda name=name: heard.append((rig.clock() - 1000.0, name)))
    monkeypatch.setattr(service, "says", lambda text: heard.append((rig.clock() - 1000.0, text)))
    monkeypatch.setattr(service, "watchdog_s", lambda: 9.0)
    return heard


def ready_at(told: list[tuple[float, str]]) -> list[float]:
    return [at for at, what in told if what == "ready"]


def test_where_the_generator_is_ready_it_is_ready_at_once(rig: Rig, told: list[tuple[float, str]]) -> None:
    rig.run(rig.key(*[None] * 20))
    assert ready_at(told) == [0.0]


@pytest.mark.parametrize(
    ("key", "ready_s"),
    [
        ("none", [0.0, 0.0]),
        ("silent", [10.0, 10.0]),
        ("good", [4.0, 5.0]),
        ("simulated", [0.0, 1.0]),
        ("unusable", [0.0, 0.0]),
        ("dead", [0.0, 1.0]),
    ],
)
def test_where_it_is_not_no_boot_waits_in_vain(
    rig: Rig, told: list[tuple[float, str]], monkeypatch: pytest.MonkeyPatch, key: str, ready_s: list[float]
) -> None:
    monkeypatch.setattr(kernel, "crng_ready", lambda: False)
    unusable = rig.key()
    unusable.open_trouble = KeyFault("A", "broken")
    keys = {
        "none": [],
        "silent": [rig.key(*[None] * 40)],
        "good": [rig.key(*admitted(*used(30)))],
        "simulated": [rig.key(*admitted(*used(30)), simulated=True)],
        "unusable": [unusable],
        "dead": [rig.key(*[bytes(2500)] * 5)],
    }
    rig.run(*keys[key], for_s=30.0)
    (at,) = ready_at(told)
    low_s, high_s = ready_s
    assert low_s <= at <= high_s


def test_it_tells_that_it_lives_and_what_it_does(rig: Rig, told: list[tuple[float, str]]) -> None:
    rig.at(33.0, rig.plugged.clear)
    key = rig.key(*admitted(*used(28)), KeyLost("K", "being read"))
    rig.run(key, for_s=50.0)
    alive = [at for at, what in told if what == "alive"]
    assert {after - before for before, after in pairwise(alive)} == {3.0}
    said = [what for _, what in told if what not in ("ready", "alive", "stopping")]
    assert said == [
        "no key feeds the pool: none is ready yet",
        "no key feeds the pool: entropykey:serial=x: probe",
        "no key feeds the pool: entropykey:serial=x: startup",
        "fed by entropykey:serial=x",
        "no key feeds the pool: K was lost while being read",
        "no key feeds the pool: no supported key is plugged in",
    ]
    assert told[-1][1] == "stopping"


def test_a_block_of_the_next_session_is_never_mixed_with_one_of_the_last(rig: Rig) -> None:
    first, second, third = used(3)
    later = clean(60)
    steps = [*admitted(first, second, third), KeyLost("K", "being read")]
    again = [clean(61 + one) for one in range(len(admitted()))]
    rig.run(rig.key(*steps, *again, later))
    assert [seed.data for seed in rig.seeds] == [sha256(first), sha256(later)]
