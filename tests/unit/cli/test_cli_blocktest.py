# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng test`: counts, verdict, exit codes."""

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command
from tests.unit.feeder.blocks import BIASED, STUCK, clean
from virtrng.cli import blocktest

HEAD = clean(8)[:4]
TESTS = ["monobit", "poker", "runs", "long_run", "continuous_run", "repetition_count", "adaptive_proportion"]
CLEAN = HEAD + b"".join(clean(number) for number in range(8))
NONE_FAILED = dict.fromkeys(TESTS, 0)


def test_a_clean_stream(command: Command) -> None:
    ran = command("test", "--json", stdin=CLEAN)
    assert (ran.code, ran.err) == (0, "")
    assert ran.json == {"blocks": 8, "failed_blocks": 0, "failures": NONE_FAILED}
    assert list(ran.json["failures"]) == TESTS


def test_the_table(command: Command) -> None:
    ran = command("test", stdin=CLEAN)
    assert ran.code == 0
    assert ran.lines[0] == "8 blocks tested, 0 failed"
    assert [line.split() for line in ran.lines[3:]] == [[name, "0"] for name in TESTS]


def test_a_file(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "sample"
    file.write_bytes(CLEAN)
    assert command("test", file, "--json").json["blocks"] == 8


def test_one_failed_block_of_many_is_chance(command: Command) -> None:
    ran = command("test", "--json", stdin=CLEAN * 200 + BIASED)
    assert ran.code == 0
    # Each repetition of the stream begins with 4 bytes more, so that blocks shift and some fail by chance.
    assert ran.json["failed_blocks"] >= 1


def test_bad_blocks_are_exit_one(command: Command) -> None:
    ran = command("test", "--json", stdin=HEAD + BIASED * 4)
    assert ran.code == 1
    assert ran.json["failed_blocks"] == 4
    assert ran.json["failures"]["monobit"] == 4
    assert ran.json["failures"]["repetition_count"] == 0


def test_an_alarm_is_exit_one(command: Command) -> None:
    ran = command("test", "--json", stdin=HEAD + clean(0) + STUCK)
    assert ran.code == 1
    assert ran.json["blocks"] == 2
    assert ran.json["failed_blocks"] == 1
    assert ran.json["failures"]["repetition_count"] >= 1


def test_zeros_fail_everything(command: Command) -> None:
    ran = command("test", "--json", stdin=bytes(4 + 5 * 2500))
    assert ran.code == 1
    assert (ran.json["blocks"], ran.json["failed_blocks"]) == (5, 5)
    assert all(ran.json["failures"][name] for name in TESTS)


@pytest.mark.parametrize("rest", [0, 1, 2499])
def test_the_first_word_only_begins_and_the_rest_is_no_block(rest: int, command: Command) -> None:
    assert command("test", "--json", stdin=CLEAN + clean(9)[:rest]).json["blocks"] == 8


@pytest.mark.parametrize("size", [0, 3, 4, 2500, 2503])
def test_too_short(size: int, command: Command, tmp_path: Path) -> None:
    ran = command("test", stdin=CLEAN[:size])
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.splitlines() == ["virtrng: stdin is too short to test", "  one block needs 2504 bytes"]
    (tmp_path / "short").write_bytes(CLEAN[:size])
    ran = command("test", tmp_path / "short", "--json")
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.startswith(f"virtrng: {tmp_path}/short is too short to test")  # TooShort


@pytest.mark.parametrize(("name", "reason"), [("none", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read(name: str, reason: str, command: Command, tmp_path: Path) -> None:
    ran = command("test", tmp_path / name)
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.splitlines()[0] == f"virtrng: cannot read {tmp_path / name}: {reason}"


def test_the_verdict_by_the_binomial_law() -> None:
    # P(X >= k) of a perfect source, exactly, where Poisson's tail is estimated.
    def exact(failed: int, blocks: int) -> float:
        p = blocktest.PERFECT_FAILURE_RATE
        term = below = (1 - p) ** blocks
        for k in range(1, failed):
            term *= (blocks - k + 1) / k * p / (1 - p)
            below += term
        return 1 - below

    for blocks in (100, 1260, 10_000, 50_000):
        first = next(failed for failed in range(blocks + 1) if blocktest.too_many(failed, blocks))
        assert exact(first, blocks) < 1.01e-6
        assert exact(first - 1, blocks) > 0.9e-6


@pytest.mark.parametrize("blocks", [1, 1260, 10**6])
def test_no_failure_is_never_too_many(blocks: int) -> None:
    assert not blocktest.too_many(0, blocks)
    assert blocktest.too_many(blocks, blocks) is (blocks > 1)
