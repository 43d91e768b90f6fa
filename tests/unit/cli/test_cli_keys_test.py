# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng keys test`: start-up tests on demand; and what it shares with `virtrng keys capture`."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.cli.conftest import Command
from tests.unit.feeder.blocks import BIASED, STUCK, clean
from virtrng.errors import ExitCode, KeyInUse, KeySelfStopped
from virtrng.feeder import source
from virtrng.keys.base import Noise
from virtrng.sim.entropykey import SERIAL
from virtrng.transport import scan


class Scripted:
    """A key that gives these blocks, one a read, and then nothing; an exception or a call in their place."""

    serial, simulated = SERIAL, False

    def __init__(self, *steps: bytes | Exception | Callable[[], object]) -> None:
        self.steps = list(steps)
        self.closed = 0
        self.counters = SimpleNamespace(
            frames_bad=3, sessions=1, telemetry=SimpleNamespace(verdict="no failure")
        )

    def start(self) -> None:
        return

    def read(self, _timeout_ms: int) -> Noise | None:
        if not self.steps:
            return None
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        if callable(step):
            step()
            return None
        return Noise("k", step, 0)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scripted]:
    """Have `--simulate entropykey` be a key that does these steps."""

    def given(*steps: bytes | Exception | Callable[[], object]) -> Scripted:
        key = Scripted(*steps)
        monkeypatch.setitem(source.SIMULATED, "entropykey", lambda: key)
        return key

    return given


TEST = ("keys", "test", "--simulate", "entropykey")


def figures(ran: Any) -> dict[str, str]:
    """Return the table, by its first column."""
    return dict(line.split() for line in ran.lines if len(line.split()) == 2 and line.split()[1].isdecimal())


def test_a_good_one(command: Command, given: Callable[..., Scripted]) -> None:
    key = given(*(clean(number) for number in range(10)))
    ran = command(*TEST)
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines[0] == f"entropykey:serial={SERIAL} passed the start-up tests"
    assert ran.lines[1] == (
        "  0 of 10 blocks of 20,000 bits failed FIPS 140-2; SP 800-90B at a claim of 0.5 bit a bit: 0 alarms"
    )
    assert ran.lines[2].endswith(" bytes/s, 3 bad frames")
    assert ran.lines[3] == "  it says of itself: no failure"
    assert set(figures(ran).values()) == {"0"}
    assert key.closed == 1


def test_one_failed_block_is_what_chance_brings(command: Command, given: Callable[..., Scripted]) -> None:
    given(BIASED, *(clean(number) for number in range(9)))
    assert command(*TEST).code == 0


def test_a_biased_one(command: Command, given: Callable[..., Scripted]) -> None:
    key = given(*[BIASED] * 4)
    ran = command(*TEST, "--blocks", "4")
    assert ran.code == ExitCode.FAILED
    assert ran.lines[0] == f"entropykey:serial={SERIAL} FAILED the start-up tests"
    assert ran.lines[1].startswith("  4 of 4 blocks")
    assert figures(ran)["monobit"] == "4"
    assert ran.lines[-1].startswith("do not use it: unplug it")
    assert key.closed == 1


def test_a_dead_one_is_alarmed_about(command: Command, given: Callable[..., Scripted]) -> None:
    given(clean(0), STUCK)
    ran = command(*TEST, "--blocks", "2")
    assert ran.code == 1
    assert int(figures(ran)["repetition_count"]) > 0


def test_json(command: Command, given: Callable[..., Scripted]) -> None:
    given(clean(0))
    told = command(*TEST, "--blocks", "1", "--json").json
    assert told.pop("bytes_per_s") > 0
    assert set(told.pop("failures").values()) == {0}
    assert told == {
        "kind": "entropykey",
        "serial": SERIAL,
        "simulated": False,
        "verdict": "no failure",
        "min_entropy": 0.5,
        "passed": True,
        "blocks": 1,
        "failed_blocks": 0,
        "frames_bad": 3,
    }


def test_blocks_need_not_come_whole(command: Command, given: Callable[..., Scripted]) -> None:
    stream = clean(0) + clean(1)
    given(*(stream[at : at + 32] for at in range(0, len(stream), 32)))
    assert command(*TEST, "--blocks", "2", "--json").json["blocks"] == 2


def test_a_key_that_stops_itself(command: Command, given: Callable[..., Scripted]) -> None:
    key = given(clean(0), KeySelfStopped("K", "8", "its temperature is too high"))
    ran = command(*TEST)
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.splitlines()[0] == (
        "virtrng: K has stopped itself: its temperature is too high (badness '8')"
    )
    assert key.closed == 1


def test_a_silent_one(command: Command, given: Callable[..., Scripted]) -> None:
    given()
    assert command(*TEST).err.splitlines()[0] == (
        f"virtrng: the key {SERIAL} gave no valid frame for 10000 ms"
    )


@pytest.mark.parametrize("blocks", ["0", "-1", "x", "1.5"])
def test_a_number_of_blocks(command: Command, blocks: str) -> None:
    ran = command(*TEST, f"--blocks={blocks}")
    assert (ran.code, ran.out) == (2, b"")
    assert f"'{blocks}' is not a number, 1 or more" in ran.err


VERBS = {
    "test": ["keys", "test"],
    "capture": ["keys", "capture", "--bytes", "8", "--output", "raw"],
}


@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_none_is_there(command: Command, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "usb_devices", list)
    assert command(*words, SERIAL).code == ExitCode.NO_KEY
    assert command(*words).code == ExitCode.USAGE


@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_in_use_by_ekeyd(command: Command, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise KeyInUse("K", "ekeyd (pid 7)")

    monkeypatch.setitem(source.SIMULATED, "entropykey", refuse)
    ran = command(*words, "--simulate", "entropykey")
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.splitlines()[0] == "virtrng: K is in use by ekeyd (pid 7)"
    assert "'systemctl stop ekeyd' first" in ran.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
def test_ended_by_a_signal_it_gives_the_key_back(
    command: Command,
    given: Callable[..., Scripted],
    words: list[str],
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    key = given(b"1234", lambda: signal.raise_signal(number))
    ran = command(*words, "--simulate", "entropykey")
    assert (ran.code, ran.out, ran.err) == (130, b"", "")
    assert key.closed == 1
    assert [*tmp_path.iterdir()] == []
