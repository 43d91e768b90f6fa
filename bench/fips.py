# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measure the block tests of virtrng, alone and with the 90B tests, beside rngtest on the same file.

rngtest is the one of Debian's rng-tools-debian; that of rng-tools5 5-4.1 miscounts a block whose
first bit differs from the bit before. Run by `make bench`.
"""

import argparse
import hashlib
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from tests.lab.images import unpacked
from virtrng import __version__
from virtrng.entropy.fips140 import Fips140
from virtrng.entropy.health import HealthTests
from virtrng.entropy.params import BLOCK_BYTES, BLOCK_TESTS, WHITENED_MIN_ENTROPY, WORD_BYTES

MB = 1_000_000
ROUNDS = 3

Counts = dict[str, int]
"""Blocks, failed blocks, and failures per test."""


def with_virtrng(noise: BinaryIO, health: HealthTests | None = None) -> Counts:
    """Test the file as rngtest does, and with the 90B tests where they are given."""
    first = noise.read(WORD_BYTES)
    fips = Fips140(first)
    if health:
        health.feed(first)
    while len(block := noise.read(BLOCK_BYTES)) == BLOCK_BYTES:
        fips.test(block)
        if health:
            health.feed(block)
    return {"blocks": fips.blocks, "failed_blocks": fips.failed_blocks, **fips.failures}


def with_virtrng_test(noise: BinaryIO) -> Counts:
    """Test the file for all that `virtrng test` counts."""
    return with_virtrng(noise, HealthTests(WHITENED_MIN_ENTROPY))


def with_rngtest(rngtest: str, noise: BinaryIO) -> Counts:
    """Run rngtest on the file, and read its counts from what it prints on stderr."""
    run = subprocess.run([rngtest], stdin=noise, capture_output=True, text=True, check=False)
    if run.returncode not in (0, 1):  # 1: some blocks failed
        raise SystemExit(f"{rngtest}: exit status {run.returncode}\n{run.stderr}")
    lines = re.findall(r"^rngtest: FIPS 140-2\S* (.+): (\d+)$", run.stderr, re.MULTILINE)
    printed = {name.lower(): int(n) for name, n in lines}
    counts = {"blocks": printed["successes"] + printed["failures"], "failed_blocks": printed["failures"]}
    return counts | {name: printed[name.replace("_", " ")] for name in BLOCK_TESTS}


def measure(path: Path, ways: dict[str, Callable[[BinaryIO], Counts]]) -> dict[str, tuple[float, Counts]]:
    """Return for each way its best time of three in seconds, the ways taking turns, and its counts."""
    best: dict[str, tuple[float, Counts]] = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            with path.open("rb") as noise:
                begun_s = time.perf_counter()
                counts = way(noise)
                taken_s = time.perf_counter() - begun_s
            best[name] = (min(taken_s, best[name][0] if name in best else taken_s), counts)
    return best


def main(argv: list[str]) -> int:
    """Print a row for each; exit 1 if the counts differ."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=100, help="how much noise to test (default: 100)")
    arguments = parser.parse_args(argv)
    if arguments.megabytes < 1:
        parser.error("--megabytes is at least 1")
    # Unpacked, not installed: its package starts a daemon.
    rngtest = str(unpacked("rng-tools-debian") / "usr/bin/rngtest")
    length_bytes = arguments.megabytes * MB
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "noise")
        path.write_bytes(hashlib.shake_256(b"virtrng bench/fips").digest(length_bytes))
        best = measure(
            path,
            {
                "rngtest": lambda noise: with_rngtest(rngtest, noise),
                "virtrng FIPS 140-2": with_virtrng,
                "virtrng test (FIPS 140-2 + SP 800-90B)": with_virtrng_test,
            },
        )
    report(best, length_bytes, rngtest)
    return int(any(counts != best["rngtest"][1] for _, counts in best.values()))


def report(best: dict[str, tuple[float, Counts]], length_bytes: int, rngtest: str) -> None:
    """Print the versions, and a row for each way."""
    version = subprocess.run([rngtest, "-V"], capture_output=True, text=True, check=False)
    printed = (version.stdout or version.stderr).partition("\n")[0]
    print(f"virtrng {__version__}, Python {platform.python_version()}, {printed}")
    print(f"{length_bytes // MB} MB from SHAKE256, best of {ROUNDS}, the interpreter's start-up not counted")
    base_s, base = best["rngtest"]
    for name, (taken_s, counts) in best.items():
        agree = "same counts" if counts == base else f"DIFFERENT COUNTS {counts}"
        print(f"{name:40} {length_bytes / taken_s / MB:6.1f} MB/s {base_s / taken_s:6.2f} x rngtest  {agree}")
    print("counts of rngtest: " + ", ".join(f"{name} {n}" for name, n in base.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
