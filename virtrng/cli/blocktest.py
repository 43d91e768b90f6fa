# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng test`: the feeder's own tests over a file or stdin."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import exp, lgamma, log
from typing import BinaryIO

from virtrng.cli import output
from virtrng.entropy.fips140 import Fips140
from virtrng.entropy.health import HealthTests
from virtrng.entropy.params import BLOCK_BYTES, WHITENED_MIN_ENTROPY, WORD_BYTES
from virtrng.errors import ExitCode, FileFailed, TooShort

# A perfect source fails one block in 1,260 (counted over 5.6 million blocks of a
# CSPRNG). A number of failures that it would reach once in a million files is a verdict.
PERFECT_FAILURE_RATE = 1 / 1260
VERDICT_PROBABILITY = 1e-6

# What is read at once. A thousand blocks take a few hundredths of a second.
CHUNK_BLOCKS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="what to test (default: stdin)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = (
        "Blocks are counted as rngtest counts them: the first 32 bits only start the continuous test.\n"
        "The SP 800-90B figures are alarms at 2^-40 for 0.5 bit of entropy a bit.\n"
        "Exit status 1 when more blocks fail than a perfect source would ever show, or on any alarm."
    )


def run(arguments: argparse.Namespace) -> int:
    """Test it all, show progress on a terminal, print the counts."""
    fips, health = Fips140(), HealthTests(WHITENED_MIN_ENTROPY)
    with _opened(arguments.file) as stream:
        head = stream.read(WORD_BYTES)
        if len(head) == WORD_BYTES:
            fips = Fips140(bootstrap=head)
        for block in _blocks(stream):
            fips.test(block)
            health.feed(block)
    output.progress_done()
    if fips.blocks == 0:
        raise TooShort("stdin" if arguments.file == "-" else arguments.file, WORD_BYTES + BLOCK_BYTES)
    failures = {**fips.failures, **health.alarms}
    if arguments.json:
        output.document({"blocks": fips.blocks, "failed_blocks": fips.failed_blocks, "failures": failures})
    else:
        output.line(f"{fips.blocks:,} blocks tested, {fips.failed_blocks:,} failed")
        output.table(("TEST", "FAILURES"), [(name, f"{count:,}") for name, count in failures.items()])
    return (
        ExitCode.FAILED
        if too_many(fips.failed_blocks, fips.blocks) or any(health.alarms.values())
        else ExitCode.DONE
    )


def too_many(failed: int, blocks: int) -> bool:
    """Whether a perfect source is all but excluded: it would fail so often once in a million times."""
    expected = blocks * PERFECT_FAILURE_RATE
    if failed <= expected:
        return False
    # The tail of the Poisson law, which for so rare an event is the binomial's: from `failed` on its
    # terms fall at least as fast as a geometric series.
    first = exp(failed * log(expected) - expected - lgamma(failed + 1))
    return first / (1 - expected / (failed + 1)) < VERDICT_PROBABILITY


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    try:
        if name == "-":
            yield sys.stdin.buffer
        else:
            with open(name, "rb") as file:
                yield file
    except OSError as error:
        raise FileFailed(name, "read", error.strerror or str(error)) from error


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the whole blocks; what is left at the end is too short to be one."""
    done = 0
    while chunk := stream.read(CHUNK_BLOCKS * BLOCK_BYTES):
        for start in range(0, len(chunk) - BLOCK_BYTES + 1, BLOCK_BYTES):
            yield chunk[start : start + BLOCK_BYTES]
        done += len(chunk) // BLOCK_BYTES
        output.progress(f"{done:,} blocks tested")
