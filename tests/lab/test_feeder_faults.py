# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fault catalogue: each thing that may go wrong with a key, against the whole feeder.

Each time no seed is credited that is not worth it, it is told what happened, and
what can recover does. What may go wrong around a key is in test_feeder_surroundings.py.
"""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from tests.lab.feeder_keys import Plugged
from tests.lab.feeder_rig import Rig
from tests.scale import scaled
from virtrng.feeder.daemon import STATUS_INTERVAL_S
from virtrng.feeder.states import QUARANTINE_S
from virtrng.keys.entropykey import driver
from virtrng.sim.entropykey import SERIAL
from virtrng.sim.faults import DRIP_S

OTHER_SERIAL = "SIMULATED+KEY/02"
# More than the feeder leaves a key alone after its first trouble.
AGAIN_S = 3.0
BLOCK_FRAMES = 2500 / 32


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with Rig(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the driver wait for a tenth of its time."""
    monkeypatch.setattr(driver, "PATIENCE_S", driver.PATIENCE_S / 10)


# --- noise that goes bad


@pytest.mark.parametrize("name", ["biased-51", "biased-52", "biased-60", "drift"])
def test_a_bias_ends_in_quarantine(rig: Rig, name: str) -> None:
    plugged = rig.feeding()
    plugged.inflict(name)
    found = rig.until_state("quarantine")
    assert "blocks failed" in str(found.reason)
    assert found.until_boottime_s is not None
    assert 0 < found.until_boottime_s - rig.boottime() <= QUARANTINE_S
    given = len(rig.recorder.seeds)
    plugged.inflict("recover")
    assert rig.until_tested(20).state == "quarantine"
    assert len(rig.recorder.seeds) == given
    rig.judge()


def test_what_recovers_is_readmitted_and_nothing_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Rig(tmp_path, monkeypatch, interval_s=300) as rig:
        plugged = rig.plug(rig.key())
        rig.until_fed()
        rig.until_tested(10)  # which are gathered for the next seed
        to_quarantine(plugged)
        rig.until_state("quarantine")
        before = len(rig.worth)
        plugged.inflict("recover")
        rig.suspended(QUARANTINE_S)
        assert rig.until_state("ok", quarantines=1).blocks_tested > 20
        rig.until(lambda found: found.kernel.seeds == 2, "a seed on readmission")
        seed, _ = rig.recorder.seeds[-1]
        assert all(rig.worth.younger(block, before) for block, _ in rig.made_of[seed.data])
        rig.judge()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("stuck", "one value"), ("short-cycle", "cycle"), ("long-cycle", "replay"), ("replay", "replay")],
)
def test_what_came_before_is_the_end_of_a_key(rig: Rig, name: str, reason: str) -> None:
    plugged = rig.feeding()
    plugged.inflict(name)
    found = rig.until_state("failed")
    assert reason in str(found.reason)
    given = len(rig.recorder.seeds)
    # It is sound again, plugged in anew, a day has passed: all of that makes it no better.
    again = rig.plug_again(plugged)
    rig.suspended(2 * 86_400.0)
    rig.until(lambda found: found.unfed_since_boottime_s, "word that nothing feeds")
    assert rig.until_state("failed").blocks_tested == found.blocks_tested
    assert len(rig.recorder.seeds) == given
    rig.restart()
    rig.until_state("ok")
    rig.until_fed(3)
    again.pull()
    rig.judge(overclaimed=1)


def test_half_dead_behind_whitening_passes_as_documented(rig: Rig) -> None:
    rig.feeding().inflict("half-dead")
    rig.until_fed(100)
    found = rig.until_state("ok")
    assert found.failure_rate < 0.005
    # Half a bit per bit is what is claimed of a whitened key: it is still worth that.
    rig.judge()


def test_a_bad_key_costs_another_nothing(rig: Rig) -> None:
    bad = rig.plug(rig.key())
    rig.plug(rig.key(OTHER_SERIAL, seed="another seed"), "other")
    rig.until(lambda found: [key.state for key in found.keys] == ["ok", "ok"], "two keys that feed")
    bad.inflict("stuck")
    found = rig.until(lambda found: "failed" in [key.state for key in found.keys], "the bad one to fail")
    assert {key.serial: key.state for key in found.keys} == {SERIAL: "failed", OTHER_SERIAL: "ok"}
    rig.until_fed(20)
    rig.judge(overclaimed=1)


# --- a way that goes bad


def test_a_stall_costs_a_session_and_no_more(rig: Rig) -> None:
    plugged = rig.feeding()
    sessions = rig.until_state("ok").sessions
    plugged.inflict("stall")
    rig.until(lambda found: found.keys[0].sessions > sessions, "a new session")
    rig.until_fed(3)
    rig.until_state("ok")
    rig.judge()


def test_a_slow_drip_feeds_nothing_and_the_age_of_the_last_seed_shows_it(rig: Rig) -> None:
    plugged = rig.feeding()
    plugged.inflict("slow-drip")
    old_s = DRIP_S + STATUS_INTERVAL_S  # a seed may have come since feeder.json was written
    old = rig.until(lambda found: (found.seed_age_s(rig.boottime()) or 0.0) > old_s, "no seed any more")
    found = rig.until(
        lambda found: found.keys[0].bytes_read > old.keys[0].bytes_read, "a drop more, and still none"
    )
    assert found.keys[0].bytes_read <= old.keys[0].bytes_read + 64
    assert found.keys[0].state == "ok"
    assert found.kernel.seeds - old.kernel.seeds <= 1, "a drop can fill a block that was nearly full"
    plugged.inflict("recover")
    rig.until_fed(3)
    rig.judge()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["garbage-storm", "silence"])
def test_a_key_that_says_nothing_is_waited_for(rig: Rig, name: str) -> None:
    plugged = rig.feeding()
    plugged.inflict(name)
    found = rig.until_state("probe")
    assert "gave no valid frame for" in str(found.reason)
    given = len(rig.recorder.seeds)
    if name == "garbage-storm":
        assert found.frames_bad > 8
    plugged.inflict("recover")
    rig.later(AGAIN_S)
    rig.until_state("ok")
    rig.until_fed(3)
    assert len(rig.recorder.seeds) > given
    rig.judge()


def to_suspect(plugged: Plugged) -> None:
    """Have five blocks fail, and one or two after that: three would end it."""
    plugged.inflict("biased-60", frames=BLOCK_FRAMES * 6.5)


def to_quarantine(plugged: Plugged) -> None:
    """Have no more blocks fail than are needed: each delays what comes after."""
    plugged.inflict("biased-60", frames=BLOCK_FRAMES * 9.5)


def brought(rig: Rig, state: str) -> Plugged:
    """Plug in a key, and wait until it stands there."""
    key = rig.key()
    key.frames_left = {"probe": BLOCK_FRAMES / 2, "startup": BLOCK_FRAMES * 2.5}.get(state, key.frames_left)
    plugged = rig.plug(key)
    if state not in ("probe", "startup"):
        rig.until_state("ok")
        {"ok": lambda _: None, "suspect": to_suspect, "quarantine": to_quarantine}[state](plugged)
    rig.until(lambda found: found.keys and found.keys[0].bytes_read, "its first bytes")
    return plugged


@pytest.mark.parametrize("state", ["probe", "startup", "ok", "suspect", "quarantine"])
def test_unplugged_in_each_state(rig: Rig, state: str) -> None:
    plugged = brought(rig, state)
    before = rig.until_state(state)
    plugged.pull()
    gone = rig.until_state("absent")
    assert "was lost while being read" in str(gone.last_fault)
    given = len(rig.recorder.seeds)
    rig.plug_again(plugged)
    rig.later(AGAIN_S)
    if state == "quarantine":  # which a loose contact does not end
        found = rig.until_state("quarantine", sessions=1)
        assert found.until_boottime_s == before.until_boottime_s
        assert rig.until_tested(20).state == "quarantine"
        assert len(rig.recorder.seeds) == given
        rig.suspended(QUARANTINE_S)
        rig.until_state("startup")
    else:
        assert rig.until_state("ok").blocks_tested > before.blocks_tested
        rig.until_fed(3)
    rig.judge()


# --- two at a time

NOISE = ("half-dead", "biased-52", "stuck", "short-cycle", "long-cycle", "replay")
WAY = ("stall", "slow-drip", "garbage-storm", "silence", "unplug")
PAIRS = list(combinations((*NOISE, *WAY), 2))
# In `make test` one of each sort: noise twice; noise and a way that goes on, or that ends; the way twice.
FEW = [("biased-52", "replay"), ("stuck", "stall"), ("replay", "unplug"), ("slow-drip", "garbage-storm")]
SHUT_OUT = ("suspect", "quarantine", "failed")


@pytest.mark.parametrize("pair", PAIRS if scaled(1) > 1 else FEW, ids=" and ".join)
def test_two_faults_that_meet(rig: Rig, monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str]) -> None:
    plugged = rig.feeding()
    if {"garbage-storm", "silence"} & {*pair}:
        monkeypatch.setattr(driver, "PATIENCE_S", driver.PATIENCE_S / 10)
    plugged.inflict(*pair)
    if "unplug" in pair:
        found = rig.until_state("absent", *SHUT_OUT)
    elif {"garbage-storm", "silence"} & {*pair}:
        found = rig.until_state("probe", *SHUT_OUT)
    elif "slow-drip" in pair:
        read = rig.until_state("ok").bytes_read
        found = rig.until(lambda found: found.keys[0].bytes_read > read, "a drop").keys[0]
    elif "half-dead" in pair and "stall" in pair:
        rig.until_fed(50)
        found = rig.until_state("ok")
    else:
        found = rig.until_state(*SHUT_OUT)
    assert found.state in ("ok", "probe") or found.reason
    rig.judge(overclaimed=2)
