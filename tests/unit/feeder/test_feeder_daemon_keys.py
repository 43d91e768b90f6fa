# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keys that come and go, and fail: who is read, and what the journal says of it, once."""

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.unit.feeder.blocks import clean
from tests.unit.feeder.rig import Rig, ScriptedKey, admitted, used
from virtrng.errors import (
    FileFailed,
    KeyDenied,
    KeyFault,
    KeyInUse,
    KeyLost,
    KeySelfStopped,
    KeySilent,
    NoLongTermKey,
    NoSuchKey,
    WrongLongTermKey,
)

LOST = KeyLost("K", "being read")
NO_KEY = "no supported key is plugged in; waiting for a key"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "run")


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the first lines of all that was warned of so far."""
    return lambda: [
        record.getMessage().split("\n")[0] for record in caplog.records if record.levelno >= logging.WARNING
    ]


def opened_at(rig: Rig, key: ScriptedKey) -> list[float]:
    """Return a list that is filled with the times at which the key is opened."""
    times: list[float] = []
    open_it = key.open

    def opening() -> ScriptedKey:
        times.append(rig.clock() - 1000.0)
        return open_it()

    key.open = opening  # type: ignore[method-assign]
    return times


def fresh(number: int) -> list[bytes]:
    """Return blocks that no key has given before: one that comes again is a replay."""
    return [clean(100 + one) for one in range(number)]


def moved(rig: Rig, key: ScriptedKey) -> None:
    """Have this key alone be there, where none was."""
    rig.plugged.clear()
    rig.plugged["port 9"] = key


def troubled(rig: Rig, trouble: Exception, serial: str = "x") -> ScriptedKey:
    key = rig.key(serial=serial)
    key.start_trouble = trouble
    return key


# --- plugged and unplugged


def test_a_lost_key_is_told_once_and_taken_again(rig: Rig, warnings: Callable[[], list[str]]) -> None:
    lost, again = rig.key(*admitted(*used(2), LOST)), rig.key(*fresh(10))
    rig.at(8.0, rig.plugged.clear)
    rig.at(30.0, lambda: rig.plugged.update({"port 7": again}))
    rig.run(lost, for_s=40.0)
    assert warnings() == [
        "K was lost while being read; waiting for a key",
        NO_KEY,
        "no key has fed the pool for 10 s; guests go on from the host's pool",
        "the pool is fed again by entropykey:serial=x, after 28 s",
    ]
    assert (lost.closed, again.closed) == (1, 1)


def test_one_that_is_back_soon_is_no_interruption(rig: Rig, warnings: Callable[[], list[str]]) -> None:
    rig.run(rig.key(*admitted(LOST), *fresh(30)), for_s=30.0)
    assert warnings() == ["K was lost while being read; waiting for a key"]
    assert rig.status.keys[0].state == "ok"


def test_lost_twice_is_told_twice(rig: Rig, warnings: Callable[[], list[str]]) -> None:
    rig.run(rig.key(None, LOST, None, LOST, None), for_s=9.0)
    assert warnings() == ["K was lost while being read; waiting for a key"] * 2


def test_with_no_key_it_waits_and_says_so_once(rig: Rig, warnings: Callable[[], list[str]]) -> None:
    rig.run(for_s=60.0)
    assert warnings() == [NO_KEY, "no key has fed the pool for 10 s; guests go on from the host's pool"]
    found = rig.status
    assert (found.keys, found.waiting) == ((), "no supported key is plugged in")
    assert found.unfed_since_boottime_s == found.started_boottime_s == 1000.0


def test_it_is_fed_again_only_where_it_was_before(rig: Rig, warnings: Callable[[], list[str]]) -> None:
    rig.at(20.0, lambda: rig.plugged.update({"port 0": rig.key(*fresh(20), simulated=True)}))
    rig.run(for_s=30.0)
    assert warnings()[2] == "the pool is fed by entropykey:serial=x (simulated by virtrng), after 24 s"


def test_when_the_last_key_leaves_it_is_said_once_and_when_one_is_back(
    rig: Rig, warnings: Callable[[], list[str]]
) -> None:
    a = rig.key(*admitted(*used(10), LOST), serial="a")
    b = rig.key(*admitted(*used(20), LOST), serial="b")
    rig.at(15.5, lambda: rig.plugged.pop("port 0"))
    rig.at(25.5, lambda: rig.plugged.pop("port 1"))
    rig.at(100.0, lambda: rig.plugged.update({"port 0": rig.key(*fresh(50), serial="a")}))
    rig.run(a, b, for_s=130.0)
    assert warnings() == [
        "K was lost while being read",
        "K was lost while being read; waiting for a key",
        NO_KEY,
        "no key has fed the pool for 10 s; guests go on from the host's pool",
        "the pool is fed again by entropykey:serial=a, after 80 s",
    ]


def test_a_key_that_moves_to_another_port_is_read_there(rig: Rig) -> None:
    there, here = rig.key(*[None] * 100), rig.key(*admitted(*used(30)))
    rig.at(20.0, lambda: moved(rig, here))
    rig.run(there, for_s=40.0)
    assert (there.closed, here.opened) == (1, 1)
    assert len(rig.seeds) >= 2
    assert [key.state for key in rig.status.keys] == ["ok"]


def test_one_that_hangs_when_it_is_unplugged_does_not_keep_it_from_being_read_elsewhere(rig: Rig) -> None:
    hung = rig.key(None, lambda: setattr(rig.bell, "busy_s", 1e6))
    here = rig.key(*admitted(*used(30)))
    rig.at(20.0, lambda: moved(rig, here))
    rig.run(hung, for_s=40.0)
    assert len(rig.seeds) >= 2
    assert [key.state for key in rig.status.keys] == ["ok"]


def test_of_two_with_one_serial_one_is_read(rig: Rig, warnings: Callable[[], list[str]]) -> None:
    first, second = rig.key(*admitted(*used(50))), rig.key(*admitted(*used(50)))
    rig.at(20.0, lambda: rig.plugged.pop("port 0"))
    rig.run(first, second, for_s=40.0)
    assert warnings()[0] == "entropykey:serial=x is in use by this feeder already"
    assert (first.opened, second.opened) == (1, 1), "the second one after the first has gone"
    assert len(rig.status.keys) == 1


def test_of_two_that_tell_one_serial_when_they_are_opened_one_is_read(rig: Rig) -> None:
    first, second = rig.key(*admitted(*used(50)), serial="a"), rig.key(*admitted(*used(50)), serial="b")
    second.start = lambda: setattr(second, "serial", "a")  # type: ignore[method-assign]
    rig.run(first, second, for_s=20.0)
    assert second.closed >= 1
    assert [(key.serial, key.state) for key in rig.status.keys] == [("a", "ok")]
    assert rig.status.keys[0].bytes_read <= 21 * 2500


# --- trouble


def test_each_of_two_troubled_keys_is_told_once(rig: Rig, warnings: Callable[[], list[str]]) -> None:
    rig.run(troubled(rig, KeyDenied("A", "/a"), "a"), troubled(rig, NoLongTermKey("B", "/k"), "b"), for_s=9.0)
    assert warnings() == [
        "no permission to open A at /a; waiting for a key",
        "/k has no long-term key for the Entropy Key B; waiting for a key",
    ]


def test_how_long_a_key_was_silent_is_no_news(rig: Rig, warnings: Callable[[], list[str]]) -> None:
    key = troubled(rig, KeySilent("A", 9_999))
    rig.at(5.0, lambda: setattr(key, "start_trouble", KeySilent("A", 10_000)))
    rig.run(key, for_s=9.0)
    assert key.opened > 2
    assert warnings() == ["A gave no valid frame for 9999 ms; waiting for a key"]


def test_what_it_has_next_is_news(rig: Rig, warnings: Callable[[], list[str]]) -> None:
    key = troubled(rig, KeyInUse("A", "ekeyd (pid 7)"))
    rig.at(1.0, lambda: setattr(key, "start_trouble", KeyInUse("A", "ekeyd (pid 8)")))
    rig.run(key, for_s=9.0)
    assert [text.split(";")[0] for text in warnings()] == [
        "A is in use by ekeyd (pid 7)",
        "A is in use by ekeyd (pid 8)",
    ]


def test_a_wanted_key_that_is_missing_is_told_once(rig: Rig, warnings: Callable[[], list[str]]) -> None:
    rig.missing = [NoSuchKey("q", "entropykey:serial=x")]
    rig.run(rig.key(*admitted(*used(60))), for_s=50.0)
    assert [text.split(";")[0] for text in warnings()] == ["no key matches 'q'"]
    assert rig.status.waiting is None


def test_a_fault_brings_no_storm_of_resets(rig: Rig) -> None:
    key = troubled(rig, KeyFault("A", "broken"))
    times = opened_at(rig, key)
    rig.run(key, for_s=200.0)
    assert [after - before for before, after in pairwise(times)][:7] == [2, 4, 8, 16, 30, 30, 30]


def test_after_a_good_session_it_is_tried_again_soon(rig: Rig) -> None:
    key = rig.key(*admitted(*[KeyFault("A", "broken")] * 4, *[None] * 80, KeyFault("A", "broken")))
    times = opened_at(rig, key)
    rig.run(key, for_s=150.0)
    assert times[-1] - times[-2] < 100.0
    assert len(times) == 6


def test_a_key_that_is_plugged_in_anew_is_tried_at_once(rig: Rig) -> None:
    key, good = troubled(rig, KeyFault("A", "broken")), rig.key(*admitted(*used(5)))
    rig.at(35.0, rig.plugged.clear)
    rig.at(36.5, lambda: rig.plugged.update({"port 7": good}))
    times = opened_at(rig, good)
    rig.run(key, for_s=50.0)
    assert times[0] <= 38.0


def test_a_wrong_long_term_key_waits_for_half_a_minute(rig: Rig) -> None:
    key = troubled(rig, WrongLongTermKey("A", "/k"))
    times = opened_at(rig, key)
    rig.run(key, for_s=100.0)
    assert times == [0.0, 30.0, 60.0, 90.0]


@pytest.mark.parametrize(
    ("trouble", "state"),
    [
        (KeyDenied("A", "/a"), "probe"),
        (KeyInUse("A", "ekeyd (pid 7)"), "probe"),
        (NoLongTermKey("x", "/k"), "probe"),
        (FileFailed("/k", "read", "Input/output error"), "probe"),
        (KeySelfStopped("A", "8", "its temperature is too high"), "failed"),
        (LOST, "absent"),
    ],
)
def test_a_key_that_cannot_be_used_is_listed_with_the_reason(
    rig: Rig, trouble: Exception, state: str
) -> None:
    rig.run(troubled(rig, trouble), for_s=1.0)
    (found,) = rig.status.keys
    assert (found.kind, found.serial, found.state, found.reason) == ("entropykey", "x", state, str(trouble))
    assert rig.status.waiting == str(trouble)


def test_a_bug_in_a_driver_is_told_with_its_trace(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.run(troubled(rig, ZeroDivisionError("x")), for_s=1.0)
    assert rig.status.keys[0].reason == "entropykey:serial=x: internal error: ZeroDivisionError: x"
    assert "Traceback" in caplog.text
