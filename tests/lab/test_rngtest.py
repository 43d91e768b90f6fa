# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does `virtrng test` count what Debian's rngtest counts, on noise that is good, biased, or broken in places?

rngtest is that of rng-tools-debian; the one of rng-tools5 5-4.1 miscounts (bench/fips.py).
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.lab.images import unpacked
from tests.scale import scaled
from virtrng.entropy.params import BLOCK_BYTES, BLOCK_TESTS

LENGTH_BYTES = scaled(1_000_000)
PLANTED = 40


def good(chance: Random) -> bytes:
    return chance.randbytes(LENGTH_BYTES)


def biased(chance: Random) -> bytes:
    """Return bits that are 1 with a chance of 65/128: the OR with a bit of six in a row that are all 1."""
    noise = int.from_bytes(chance.randbytes(LENGTH_BYTES))
    rare = int.from_bytes(chance.randbytes(LENGTH_BYTES))
    for _ in range(5):
        rare &= int.from_bytes(chance.randbytes(LENGTH_BYTES))
    return (noise | rare).to_bytes(LENGTH_BYTES)


def with_long_runs(chance: Random) -> bytes:
    """Return noise with runs of 26 bits and more in some blocks."""
    noise = bytearray(chance.randbytes(LENGTH_BYTES))
    for _ in range(PLANTED):
        at = chance.randrange(LENGTH_BYTES - 4)
        noise[at : at + 4] = chance.choice([b"\0", b"\xff"]) * 4
    return bytes(noise)


def with_repeated_words(chance: Random) -> bytes:
    """Return noise in which some words of 32 bits, as rngtest cuts it, come twice."""
    noise = bytearray(chance.randbytes(LENGTH_BYTES))
    for _ in range(PLANTED):
        at = 4 * chance.randrange(LENGTH_BYTES // 4 - 1)
        noise[at + 4 : at + 8] = noise[at : at + 4]
    return bytes(noise)


def cut_short(chance: Random) -> bytes:
    return chance.randbytes(10 * BLOCK_BYTES + 5)


def counted_by_rngtest(noise: bytes) -> dict[str, int]:
    # Unpacked, not installed: its package starts a daemon.
    rngtest = unpacked("rng-tools-debian") / "usr/bin/rngtest"
    run = subprocess.run([rngtest], input=noise, capture_output=True, check=False)
    assert run.returncode in (0, 1), run.stderr  # 1: some blocks failed
    lines = re.findall(r"^rngtest: FIPS 140-2\S* (.+): (\d+)$", run.stderr.decode(), re.MULTILINE)
    printed = {name.lower(): int(number) for name, number in lines}
    return {
        "blocks": printed["successes"] + printed["failures"],
        "failed_blocks": printed["failures"],
        **{test: printed[test.replace("_", " ")] for test in BLOCK_TESTS},
    }


def counted_by_us(file: Path) -> dict[str, int]:
    run = subprocess.run(
        [sys.executable, "-m", "virtrng", "test", "--json", str(file)], capture_output=True, check=False
    )
    counts = json.loads(run.stdout)
    return {
        "blocks": counts["blocks"],
        "failed_blocks": counts["failed_blocks"],
        **{test: counts["failures"][test] for test in BLOCK_TESTS},
    }


@pytest.mark.parametrize(
    ("make", "fails"),
    [
        (good, None),
        (biased, "monobit"),
        (with_long_runs, "long_run"),
        (with_repeated_words, "continuous_run"),
        (cut_short, None),
    ],
    ids=lambda made: getattr(made, "__name__", made),
)
def test_both_count_the_same(make: Callable[[Random], bytes], fails: str | None, tmp_path: Path) -> None:
    noise = make(Random(140))
    (tmp_path / "noise").write_bytes(noise)
    ours = counted_by_us(tmp_path / "noise")
    assert ours == counted_by_rngtest(noise)
    if fails:
        assert ours[fails] >= 10, ours
