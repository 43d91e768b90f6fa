# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng keys test` and `virtrng keys capture`: one key read for a while, judged or written to a file."""

import argparse
import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtrng import config
from virtrng.cli import holders, output, signals
from virtrng.cli import keys_options as options
from virtrng.cli.blocktest import too_many
from virtrng.entropy.fips140 import Fips140
from virtrng.entropy.health import HealthTests
from virtrng.entropy.params import BLOCK_BITS, BLOCK_BYTES, STREAM_TESTS
from virtrng.errors import ExitCode, KeySilent
from virtrng.feeder import source
from virtrng.files import replacing
from virtrng.keys import find
from virtrng.keys.base import Key

# A key that gives nothing for so long is not going to.
SILENCE_MS = 10_000
# The feeder's own start-up tests take one; more of them see more, at 0.6 s each from an Entropy Key.
TEST_BLOCKS = 10


def add_verbs(verbs: Any) -> None:
    """Declare both verbs."""
    test = verbs.add_parser(
        "test",
        help="run the start-up tests on a key",
        description="Read some blocks of a key and run the feeder's tests over them: FIPS 140-2 and "
        "SP 800-90B. Exit status 1 if it fails.",
    )
    _add_which(test)
    test.add_argument(
        "--blocks",
        metavar="N",
        type=_count,
        default=TEST_BLOCKS,
        help=f"how many, of {BLOCK_BYTES} bytes each (default: {TEST_BLOCKS})",
    )
    options.add_json(test)
    test.set_defaults(verb=_test)
    capture = verbs.add_parser(
        "capture",
        help="raw samples of a key to a file, for NIST's EntropyAssessment",
        description="Write bytes as the key delivers them, before any conditioning, to a file (mode 0600). "
        "They must not be used as keys: they are for measuring the key.",
    )
    _add_which(capture)
    capture.add_argument("--bytes", metavar="N", type=_count, required=True, help="how many")
    capture.add_argument("--output", metavar="FILE", type=Path, required=True, help="where to")
    options.add_json(capture)
    capture.set_defaults(verb=_capture)


def _add_which(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("key", metavar="KEY", nargs="?", help=find.KEY_HELP)
    which.add_argument("--simulate", metavar="KIND", choices=sorted(source.SIMULATED), help="a simulated key")
    options.add_keyring(parser)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number, 1 or more")
    return int(text)


@contextmanager
def _started(arguments: argparse.Namespace) -> Iterator[tuple[source.Source, Key]]:
    """Give the key that is meant, ready to read, until the block ends."""
    settings = config.load(arguments.config_file)
    if arguments.simulate:
        chosen = source.simulated(arguments.simulate)
    else:
        (chosen,) = source.plugged_in(settings.keys, arguments.keyring, arguments.key)
    with signals.ending_cleanly():
        with holders.told():
            key = chosen.open()
        try:
            key.start()
            yield chosen, key
        finally:
            key.close()


def _bytes(key: Key, wanted: int, doing: str) -> Iterator[bytes]:
    """Yield so many bytes of the key's noise, in pieces as they come, and show how far it is."""
    silent_ms, done = 0, 0
    try:
        while done < wanted:
            noise = key.read(1000)
            silent_ms = 0 if noise else silent_ms + 1000
            if silent_ms >= SILENCE_MS:
                raise KeySilent(f"the key {key.serial}", silent_ms)
            if noise:
                piece = noise.data[: wanted - done]
                done += len(piece)
                yield piece
                output.progress(f"{doing} {done} of {wanted} bytes")
    finally:
        output.progress_done()


def _name(chosen: source.Source, key: Key) -> str:
    return f"{chosen.kind}:serial={key.serial}{' (simulated by virtrng)' if key.simulated else ''}"


# --- capture


def _capture(arguments: argparse.Namespace) -> int:
    with _started(arguments) as (chosen, key):
        with replacing(arguments.output, 0o600) as file:
            for piece in _bytes(key, arguments.bytes, "captured"):
                file.write(piece)
        name, serial, simulated = _name(chosen, key), key.serial, key.simulated
    if arguments.json:
        output.document(
            {
                "kind": chosen.kind,
                "serial": serial,
                "simulated": simulated,
                "bytes": arguments.bytes,
                "file": str(arguments.output),
            }
        )
    else:
        output.line(f"wrote {arguments.bytes} raw bytes of {name} to {arguments.output}")
    return ExitCode.DONE


# --- test


@dataclass(frozen=True, slots=True)
class _Result:
    """What the tests found in so many blocks of one key."""

    kind: str
    serial: str
    simulated: bool
    verdict: str | None
    min_entropy: float
    passed: bool
    blocks: int
    failed_blocks: int
    failures: dict[str, int]
    frames_bad: int
    bytes_per_s: int


def _test(arguments: argparse.Namespace) -> int:
    with _started(arguments) as (chosen, key):
        result = _tested(chosen, key, arguments.blocks)
        name = _name(chosen, key)
    if arguments.json:
        output.document(dataclasses.asdict(result))
    else:
        _print(name, result)
    return ExitCode.DONE if result.passed else ExitCode.FAILED


def _tested(chosen: source.Source, key: Key, blocks: int) -> _Result:
    fips, health = Fips140(), HealthTests(chosen.min_entropy)
    began_s, pending = time.monotonic(), bytearray()
    for piece in _bytes(key, blocks * BLOCK_BYTES, "tested"):
        pending += piece
        while len(pending) >= BLOCK_BYTES:
            block = bytes(pending[:BLOCK_BYTES])
            del pending[:BLOCK_BYTES]
            fips.test(block)
            health.feed(block)
    took_s = max(time.monotonic() - began_s, 1e-3)
    return _Result(
        kind=chosen.kind,
        serial=key.serial,
        simulated=key.simulated,
        verdict=key.counters.telemetry.verdict,
        min_entropy=chosen.min_entropy,
        passed=not (too_many(fips.failed_blocks, fips.blocks) or any(health.alarms.values())),
        blocks=fips.blocks,
        failed_blocks=fips.failed_blocks,
        failures={**fips.failures, **health.alarms},
        frames_bad=key.counters.frames_bad,
        bytes_per_s=round(blocks * BLOCK_BYTES / took_s),
    )


def _print(name: str, result: _Result) -> None:
    output.line(f"{name} {'passed' if result.passed else 'FAILED'} the start-up tests")
    output.line(
        f"  {result.failed_blocks} of {result.blocks} blocks of {BLOCK_BITS:,} bits failed FIPS 140-2; "
        f"SP 800-90B at a claim of {result.min_entropy:g} bit a bit: {_plural(_alarms(result), 'alarm')}"
    )
    output.line(f"  {result.bytes_per_s:,} bytes/s, {_plural(result.frames_bad, 'bad frame')}")
    if result.verdict:
        output.line(f"  it says of itself: {result.verdict}")
    output.line()
    output.table(("TEST", "FAILURES"), [(test, f"{count:,}") for test, count in result.failures.items()])
    if not result.passed:
        output.line("do not use it: unplug it for a minute and test it again; if it fails again, retire it")


def _alarms(result: _Result) -> int:
    return sum(result.failures[name] for name in STREAM_TESTS)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
