# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's part of `virtrng status`: the answer in one look, in every state there is."""

import dataclasses
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Ran
from tests.unit.cli.fed import FED, FEEDER, KEY, NAME, NOW_S, UNIX_S, running
from tests.unit.support import ROOT, drop_to_nobody, in_child
from virtrng import config, kernel, status
from virtrng.cli import output, status_host
from virtrng.cli.output import Fact
from virtrng.feeder.states import State
from virtrng.status import KeyStatus

Show = Callable[..., Ran]
READY = "pool    the kernel's generator is ready"
ALONE = f"{READY}: guests go on from it, without a key's help"
FIGURES = "        10,000 bytes read, 4 blocks tested, 1 failed, 2 bad frames"
LAST_FAULT = "block 2 dropped: it failed runs"


def host_lines(ran: Ran) -> list[str]:
    assert (ran.code, ran.err) == (0, "")
    return ran.lines[: ran.lines.index("")]


def with_seed(age_s: float | None) -> status.FeederStatus:
    last = None if age_s is None else NOW_S - age_s
    return replace(FED, kernel=replace(FED.kernel, last_seed_boottime_s=last))


def test_no_feeder(show: Show) -> None:
    assert host_lines(show()) == [
        "fed     no: no feeder runs",
        "feeder  not running ('systemctl start virtrng-feeder', or 'virtrng feed')",
        ALONE,
    ]


def test_fed(show: Show, tmp_path: Path) -> None:
    with running(tmp_path / "run"):
        assert host_lines(show()) == [
            f"fed     yes, by {NAME}; last seed 5 s ago (every 10 s)",
            f"feeder  {FEEDER}: 3 seeds, 768 bits credited, made of 7,500 tested bytes",
            f"key     {NAME}: ok",
            FIGURES,
            READY,
        ]


def test_a_feeder_says_since_when(show: Show, tmp_path: Path) -> None:
    with running(tmp_path / "run", replace(FED, started_boottime_s=NOW_S - 7200)):
        assert host_lines(show())[1].startswith(f"feeder  {FEEDER}, for 2 hours: 3 seeds, ")


def test_a_feeder_that_has_ended(show: Show, tmp_path: Path) -> None:
    status.write(tmp_path / "run", FED)
    lines = host_lines(show())
    assert lines[0] == "fed     no: no feeder runs; last seed 5 s ago"
    assert lines[2:] == [f"key     {NAME}: ok when the feeder ended", FIGURES, ALONE]


def test_a_feeder_that_waits_says_why(show: Show, tmp_path: Path) -> None:
    for waiting, told in (
        ("k has no long-term key", "k has no long-term key"),
        (None, "it has just started"),
    ):
        with running(tmp_path / "run", replace(with_seed(None), keys=(), waiting=waiting)):
            lines = host_lines(show())
        assert lines[0] == "fed     not yet: no seed was given since the feeder started"
        assert lines[2] == f"key     none; the feeder waits: {told}"


def test_a_key_that_has_gone(show: Show, tmp_path: Path) -> None:
    gone = replace(KEY, state="absent", reason="four clean blocks", last_fault="it was unplugged")
    with running(tmp_path / "run", replace(FED, keys=(gone,), unfed_since_boottime_s=NOW_S - 15)):
        lines = host_lines(show())
    assert lines[0] == "fed     no longer: no key feeds for 15 s; last seed 5 s ago"
    assert lines[2:] == [f"key     {NAME}: absent: it was unplugged", FIGURES, ALONE]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("probe", "not used yet: WHY"),
        ("startup", "in its start-up tests: WHY"),
        ("ok", "ok"),
        ("suspect", "suspect: WHY; nothing of it is used"),
        ("quarantine", "in quarantine for another 45 s: WHY; nothing of it is used"),
        ("failed", "failed: WHY; nothing of it is used"),
        ("absent", "absent: WHY"),
        ("of a newer feeder", "of a newer feeder: WHY"),
    ],
)
def test_every_state_in_words(state: str, told: str, show: Show, tmp_path: Path) -> None:
    key = replace(KEY, state=state, reason="WHY", last_fault="WHY")
    if state == "quarantine":
        key = replace(key, until_boottime_s=NOW_S + 45)
    with running(tmp_path / "run", replace(FED, keys=(key,))):
        assert host_lines(show())[2] == f"key     {NAME}: {told}"


def test_no_state_is_forgotten_above() -> None:
    (mark,) = (one for one in test_every_state_in_words.pytestmark if one.name == "parametrize")  # type: ignore[attr-defined]
    assert {state for state, _ in mark.args[1]} >= {one.value for one in State}


def test_all_that_is_known_of_a_key(show: Show, tmp_path: Path) -> None:
    key = replace(
        KEY, last_fault=LAST_FAULT, blocks_failed=3, failure_rate=0.0021, quarantines=1,
        failures={"runs": 2, "long_run": 1, "poker": 0}, until_boottime_s=NOW_S - 1,
    )  # fmt: skip
    with running(tmp_path / "run", replace(FED, keys=(key,))):
        lines = host_lines(show())
    assert lines[2] == f"key     {NAME}: ok"
    assert lines[3].strip().split("; ") == [
        "10,000 bytes read, 4 blocks tested, 3 failed (runs 2, long run 1), 2 bad frames",
        "lately 0.21% of its blocks fail",
        "1 quarantine in 24 hours",
        f"last fault: {LAST_FAULT}",
    ]


def test_several_keys(show: Show, tmp_path: Path) -> None:
    second = replace(KEY, serial="c+d")
    third = KeyStatus.unread("entropykey", "", "probe", "busy")
    with running(tmp_path / "run", replace(FED, keys=(KEY, second, third))):
        lines = host_lines(show())
    assert lines[0] == f"fed     yes, by {NAME} and entropykey:serial=c+d; last seed 5 s ago (every 10 s)"
    assert lines[2:] == [
        f"key     {NAME}: ok",
        FIGURES,
        "key     entropykey:serial=c+d: ok",
        FIGURES,
        "key     entropykey of unknown serial: not used yet: busy",
        READY,
    ]


def test_fed_by_a_simulated_key(show: Show, tmp_path: Path) -> None:
    key = replace(KEY, simulated=True)
    named = f"{NAME} (simulated by virtrng)"
    with running(tmp_path / "run", replace(FED, keys=(key,))):
        lines = host_lines(show())
        assert show("--json").json["feeder"]["fed"] is False
    assert lines[0] == f"fed     only by {named}, with a credit of 0; last seed 5 s ago"
    assert lines[2] == f"key     {named}: ok"
    real = replace(KEY, serial="real")
    with running(tmp_path / "run", replace(FED, keys=(key, real))):
        assert host_lines(show())[0].startswith(f"fed     yes, by {named} and entropykey:serial=real; ")


TELEMETRY = {
    "temperature_k": 314.3,
    "supply_v": 3.254,
    "fips_blocks": 7342,
    "fips_failures": 6,
    "fips_blocks_per_s": 1.61,
    "raw_xor_shannons_per_byte": 2.929,
    "left_ports": 2,
}


def test_what_a_key_says_of_itself(show: Show, tmp_path: Path) -> None:
    key = replace(KEY, telemetry=TELEMETRY, verdict="no failure")
    with running(tmp_path / "run", replace(FED, keys=(key,))):
        lines = host_lines(show())
        (document,) = show("--json").json["feeder"]["status"]["keys"]
    assert lines[4:6] == [
        "        it says of itself: no failure, temperature 41.2 °C, supply 3.254 V, FIPS blocks 7,342,",
        "        FIPS failures 6, FIPS blocks 1.61/s, raw XOR 2.93 Sh/byte, left ports 2",
    ]
    assert (document["telemetry"], document["verdict"]) == (TELEMETRY, "no failure")


def test_what_a_key_said_that_is_absent(show: Show, tmp_path: Path) -> None:
    key = replace(KEY, state="absent", verdict="its temperature is too high")
    with running(tmp_path / "run", replace(FED, keys=(key,))):
        assert host_lines(show())[4] == "        it was last heard to say: its temperature is too high"


@pytest.mark.parametrize(("age_s", "told"), [(0.4, "0 s"), (1.0, "1 s"), (60.0, "60 s")])
def test_a_seed_is_young_for_a_minute(age_s: float, told: str, show: Show, tmp_path: Path) -> None:
    with running(tmp_path / "run", with_seed(age_s)):
        assert show().lines[0] == f"fed     yes, by {NAME}; last seed {told} ago (every 10 s)"


@pytest.mark.parametrize(("age_s", "told"), [(61.0, "61 s"), (150.0, "2 minutes"), (9000.0, "2 hours")])
def test_an_old_seed(age_s: float, told: str, show: Show, tmp_path: Path) -> None:
    with running(tmp_path / "run", with_seed(age_s)):
        lines = host_lines(show())
    assert (lines[0], lines[-1]) == (f"fed     no: the last seed is {told} old", ALONE)
    assert show().lines[0] == f"fed     no: no feeder runs; last seed {told} ago"


def test_a_seed_is_young_for_three_intervals(show: Show, tmp_path: Path) -> None:
    file = tmp_path / "virtrng.toml"
    file.write_text(file.read_text() + "[feeder]\ninterval_s = 100\n")
    for age_s, answer in ((300.0, "yes, by"), (301.0, "no: the last seed is 5 minutes old")):
        with running(tmp_path / "run", with_seed(age_s)):
            assert show().lines[0].startswith(f"fed     {answer}")


def test_a_feeder_without_a_status(show: Show, tmp_path: Path) -> None:
    with running(tmp_path / "run", None):
        assert host_lines(show())[:2] == [
            "fed     not yet: the feeder has written no status",
            f"feeder  {FEEDER}; it has written no status",
        ]


def test_a_status_that_is_late(show: Show, tmp_path: Path) -> None:
    """The feeder may well go on, but what stands there is old."""
    with running(tmp_path / "run", replace(FED, updated_at=UNIX_S - 10)):
        assert host_lines(show())[0].startswith("fed     yes, ")
    with running(tmp_path / "run", replace(with_seed(1000), updated_at=UNIX_S - 11)):
        assert host_lines(show())[0] == "fed     not known: the feeder last wrote its status 11 s ago"


def test_a_seed_of_another_boot_has_no_age(show: Show, tmp_path: Path) -> None:
    status.write(tmp_path / "run", with_seed(-1))
    assert show().lines[0] == "fed     no: no feeder runs"


def test_a_broken_status_file_is_an_error(show: Show, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "feeder.json").write_text("{")
    ran = show()
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.splitlines()[1] == "  restart what writes it: virtrng-feeder or virtrng-watch"


def test_a_generator_that_is_not_ready(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "crng_ready", lambda: False)
    assert host_lines(show())[2] == (
        "pool    the kernel's generator is not ready yet: what reads /dev/random or calls getrandom() waits"
    )
    assert show("--json").json["pool"] == {"ready": False}


def test_json_with_a_feeder(show: Show, tmp_path: Path) -> None:
    with running(tmp_path / "run"):
        document = show("--json").json
    assert list(document) == ["feeder", "pool", "watcher", "guests", "guests_error", "problems"]
    feeder = document["feeder"]
    assert (feeder["running"], feeder["holder"], feeder["last_seed_age_s"]) == (True, FEEDER, 5.0)
    assert (feeder["fed"], feeder["fed_by"]) == (True, [NAME])
    assert feeder["status"]["kernel"]["seeded_bits"] == 768
    assert feeder["status"]["keys"][0]["serial"] == "a/b"
    assert (document["pool"], document["guests_error"]) == ({"ready": True}, None)


def test_json_without(show: Show) -> None:
    document = show("--json").json
    assert document["feeder"] == {
        "running": False, "holder": None, "fed": False, "fed_by": [], "last_seed_age_s": None, "status": None,
    }  # fmt: skip
    assert document["problems"][0] == "no feeder runs; start it: systemctl start virtrng-feeder"


@pytest.mark.parametrize("kind", [status.FeederStatus, status.KernelStatus, KeyStatus])
def test_the_document_about_it_names_every_field(kind: type) -> None:
    rows = (ROOT / "docs" / "feeder.json.md").read_text().splitlines()
    named = {
        name for row in rows if row.startswith("| `") for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert {field.name for field in dataclasses.fields(kind)} <= named


def test_an_ordinary_user_sees_the_same(open_path: Path) -> None:
    """The lock is closed to other users, feeder.json is not."""
    settings = replace(config.DEFAULTS, paths=config.PathSettings(open_path))

    def look() -> str:
        drop_to_nobody()
        return str(status_host.look(settings).holder)

    with running(open_path, replace(FED, pid=os.getpid())):
        assert in_child(look) == FEEDER
    status.write(open_path, replace(FED, pid=2**22 + 1))  # above the highest there can be (PID_MAX_LIMIT)
    assert in_child(look) == "None"


# --- how it looks


class Terminal(io.StringIO):
    """What a person would see."""

    def isatty(self) -> bool:
        return True


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> Iterator[Terminal]:
    screen = Terminal()
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", screen)
        yield screen


FACTS = [
    Fact("fed", "yes, by a key with a long name", "good"),
    Fact("", "of one", news=None),
    Fact("pool", "no", "bad"),
]


def test_a_terminal_folds_below_itself_and_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, 30) as screen:
        output.facts(FACTS)
    assert "\x1b[32myes, by a key with a" in screen.getvalue()
    assert "\x1b[31mno" in screen.getvalue()
    with terminal(monkeypatch, 30) as screen:
        monkeypatch.setenv("NO_COLOR", "1")
        output.facts(FACTS)
    lines = [line.rstrip() for line in screen.getvalue().splitlines()]
    assert lines == ["fed     yes, by a key with a", "        long name", "        of one", "pool    no"]


def test_a_pipe_gets_whole_lines_without_colour(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("FORCE_COLOR", "1")
    output.facts(FACTS)
    shown = capsys.readouterr().out
    assert shown == "fed     yes, by a key with a long name\n        of one\npool    no\n"


@pytest.mark.parametrize(
    ("names", "told"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_lists_in_words(names: list[str], told: str) -> None:
    assert output.listed(names) == told
