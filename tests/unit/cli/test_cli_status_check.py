# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng status --check`: a line for each thing that is wrong, and exit 1."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Ran
from tests.unit.cli.fed import FED, KEY, NAME, NOW_S, UNIX_S, running
from virtrng import kernel
from virtrng.status import FeederStatus

Show = Callable[..., Ran]
OLD = replace(FED.kernel, last_seed_boottime_s=NOW_S - 150)
NO_SEED = replace(FED.kernel, seeds=0, last_seed_at=None, last_seed_boottime_s=None)


@pytest.fixture
def check(show: Show) -> Callable[..., Ran]:
    return lambda *arguments: show("--check", *arguments)


def test_all_is_well(check: Show, tmp_path: Path) -> None:
    with running(tmp_path / "run"):
        ran = check()
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines == [f"ok: fed by {NAME}; last seed 5 s ago (every 10 s); 1 guest"]


def test_no_feeder(check: Show) -> None:
    ran = check()
    assert (ran.code, ran.err) == (1, "")
    assert ran.lines == ["no feeder runs; start it: systemctl start virtrng-feeder"]


@pytest.mark.parametrize(
    ("feeder", "told"),
    [
        (None, "the feeder has written no status; its log tells why: journalctl -u virtrng-feeder"),
        (
            replace(FED, updated_at=UNIX_S - 30),
            "feeder.json is 30 s old; see whether the disk of RUN_DIR is full",
        ),
        (
            replace(FED, kernel=NO_SEED),
            "no seed yet; if it stays so, the feeder's log tells why: journalctl -u virtrng-feeder",
        ),
        (
            replace(FED, kernel=OLD),
            "no seed for 2 minutes; the feeder's log tells why: journalctl -u virtrng-feeder",
        ),
        (
            replace(FED, keys=(), waiting="no key is plugged in", unfed_since_boottime_s=NOW_S - 15),
            "no key feeds for 15 s (no key is plugged in); 'virtrng keys' shows what stands in its way",
        ),
        (
            replace(FED, keys=(replace(KEY, simulated=True),)),
            "only a simulated key feeds, with a credit of 0; plug in a hardware key",
        ),
    ],
)
def test_each_thing_that_can_be_wrong(
    feeder: FeederStatus | None, told: str, check: Show, tmp_path: Path
) -> None:
    with running(tmp_path / "run", feeder):
        ran = check()
    assert (ran.code, ran.lines) == (1, [told.replace("RUN_DIR", str(tmp_path / "run"))])


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("suspect", "suspect: WHY; it is used again when its tests are clean"),
        ("quarantine", "in quarantine: WHY; it is tested again after that"),
        ("failed", "failed: WHY; replace it, or have it tested anew: systemctl restart virtrng-feeder"),
    ],
)
def test_a_key_that_is_not_trusted_beside_one_that_feeds(
    state: str, told: str, check: Show, tmp_path: Path
) -> None:
    bad = replace(KEY, serial="bad", state=state, reason="WHY")
    with running(tmp_path / "run", replace(FED, keys=(KEY, bad))):
        ran = check()
    assert (ran.code, ran.lines) == (1, [f"entropykey:serial=bad is {told}"])


def test_a_key_that_has_gone_is_missed_if_the_configuration_names_it(check: Show, tmp_path: Path) -> None:
    gone = replace(KEY, serial="gone", state="absent", last_fault="it was unplugged")
    with running(tmp_path / "run", replace(FED, keys=(KEY, gone))):
        assert check().code == 0
        file = tmp_path / "virtrng.toml"
        file.write_text(file.read_text() + "[[key]]\nserial = 'gone'\n")
        (line,) = check().lines
    sentence, remedy = line.split("; ")
    assert sentence == "entropykey:serial=gone is absent: it was unplugged"
    assert remedy == "plug it in, or take its [[key]] out of virtrng.toml"


def test_a_generator_that_is_not_ready(check: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "crng_ready", lambda: False)
    with running(tmp_path / "run"):
        ran = check()
    assert ran.lines == [
        "the kernel's generator is not ready; it will be with the first seed that a key gives"
    ]


def test_a_broken_status_file(check: Show, tmp_path: Path) -> None:
    with running(tmp_path / "run", None):
        (tmp_path / "run" / "feeder.json").write_text("{")
        (line,) = check().lines
    assert line.startswith(f"{tmp_path}/run/feeder.json: not JSON: ")
    assert line.endswith("; restart what writes it: virtrng-feeder or virtrng-watch")


def test_a_libvirt_that_does_not_answer(show: Show, tmp_path: Path) -> None:
    with running(tmp_path / "run"):
        ran = show("--check", uri="qemu+unix:///system?socket=/nonexistent")
    (line,) = ran.lines
    assert line.startswith("the guests are not known: no libvirt answers at ")
    assert line.endswith("; start it ('systemctl start libvirtd'), or name another with -c URI")


def test_as_json(check: Show, tmp_path: Path) -> None:
    ran = check("--json")
    assert (ran.code, ran.json["problems"]) == (
        1,
        ["no feeder runs; start it: systemctl start virtrng-feeder"],
    )
    with running(tmp_path / "run"):
        ran = check("--json")
    assert (ran.code, ran.json["problems"], ran.json["feeder"]["fed"]) == (0, [], True)


def test_check_and_follow_exclude_each_other(check: Show) -> None:
    assert check("--follow").code == 2
