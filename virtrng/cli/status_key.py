# SPDX-License-Identifier: LGPL-2.1-or-later
"""One key in `virtrng status`: where it stands, why and until when, and what it says of itself."""

import textwrap
from collections.abc import Iterator

from virtrng.cli.output import Fact, duration, plural
from virtrng.status import ABSENT, KeyStatus

ZERO_CELSIUS_K = 273.15
TELEMETRY_WIDTH = 90
NO_BREAK = "\N{NO-BREAK SPACE}"

# A state of feeder.states.State, or "absent", in words; a state of a newer feeder stands as it is.
_WORDS = {
    "probe": "not used yet",
    "startup": "in its start-up tests",
    "ok": "ok",
    "quarantine": "in quarantine",
}
# Those in which its bytes failed a test, with what helps.
_DISTRUSTED = {
    "suspect": "it is used again when its tests are clean",
    "quarantine": "it is tested again after that",
    "failed": "replace it, or have it tested anew: systemctl restart virtrng-feeder",
}


def name(key: KeyStatus) -> str:
    """Return the KEY that names it on a command line, marked where it is simulated."""
    named = f"{key.kind}:serial={key.serial}" if key.serial else f"{key.kind} of unknown serial"
    return f"{named}{' (simulated by virtrng)' if key.simulated else ''}"


def facts(key: KeyStatus, boottime_s: float, *, running: bool) -> list[Fact]:
    """Return its lines: where it stands, the figures below, and what it says of itself.

    Where no feeder is `running`, it is where the key stood when there was one.
    """
    standing = f"{name(key)}: {_WORDS.get(key.state, key.state)}"
    if not running:
        return [Fact("key", f"{standing} when the feeder ended"), *_below(key)]
    tone = "good" if key.state == "ok" else "bad" if key.state in _DISTRUSTED else "doubtful"
    reason = f": {why}" if (why := _why(key)) and key.state != "ok" else ""
    if key.state in _DISTRUSTED:
        reason += "; nothing of it is used"
    text = f"{standing}{_until(key, boottime_s)}{reason}"
    return [Fact("key", text, tone, news=f"{standing}{reason}"), *_below(key)]


def _below(key: KeyStatus) -> Iterator[Fact]:
    if key.bytes_read or key.frames_bad:
        yield Fact("", _figures(key), news=None)
    for text in _telemetry(key):
        yield Fact("", text, news=None)


def problem(key: KeyStatus, *, pinned: bool) -> str | None:
    """Return in one line what is wrong with it, and what helps; None if nothing is.

    A `pinned` key is one that the configuration names: it should be there.
    """
    reason = f": {why}" if (why := _why(key)) else ""
    if key.state in _DISTRUSTED:
        return f"{name(key)} is {_WORDS.get(key.state, key.state)}{reason}; {_DISTRUSTED[key.state]}"
    if key.state == ABSENT and pinned:
        return f"{name(key)} is absent{reason}; plug it in, or take its [[key]] out of virtrng.toml"
    return None


def _why(key: KeyStatus) -> str | None:
    # The reason of one that has gone is of the state that it was in.
    return key.last_fault if key.state == ABSENT else key.reason


def _until(key: KeyStatus, boottime_s: float) -> str:
    if key.until_boottime_s is None or key.until_boottime_s <= boottime_s:
        return ""
    return f" for another {duration(key.until_boottime_s - boottime_s)}"


def _figures(key: KeyStatus) -> str:
    failures = [f"{test.replace('_', ' ')} {count:,}" for test, count in key.failures.items() if count]
    counts = (
        plural(key.bytes_read, "byte") + " read",
        plural(key.blocks_tested, "block") + " tested",
        f"{key.blocks_failed:,} failed" + (f" ({', '.join(failures)})" if failures else ""),
        plural(key.frames_bad, "bad frame"),
    )
    parts = [", ".join(counts)]
    if key.failure_rate > 0:
        parts.append(f"lately {key.failure_rate:.2%} of its blocks fail")
    if key.quarantines:
        parts.append(f"{plural(key.quarantines, 'quarantine')} in 24 hours")
    if key.last_fault and key.last_fault != _why(key):
        parts.append(f"last fault: {key.last_fault}")
    return "; ".join(parts)


def _telemetry(key: KeyStatus) -> Iterator[str]:
    """Say what the key says of itself."""
    said = [key.verdict] if key.verdict else []
    said += [_figure(name, value) for name, value in key.telemetry.items()]
    if not said:
        return
    lead = "it was last heard to say" if key.state == ABSENT else "it says of itself"
    text = f"{lead}: {', '.join(one.replace(' ', NO_BREAK) for one in said)}"
    for line in textwrap.wrap(text, TELEMETRY_WIDTH):
        yield line.replace(NO_BREAK, " ")


def _figure(name: str, value: float) -> str:
    """Write a figure of Telemetry.figures: its name ends with the unit."""
    if name.endswith("_k"):
        words, text = name.removesuffix("_k"), f"{value - ZERO_CELSIUS_K:.1f} °C"
    elif name.endswith("_v"):
        words, text = name.removesuffix("_v"), f"{value:.3f} V"
    else:
        words, text = name, f"{value:,}"
        for unit, short in (("_shannons_per_byte", " Sh/byte"), ("_per_s", "/s")):
            if name.endswith(unit):
                words, text = name.removesuffix(unit), f"{value:.2f}{short}"
    return f"{words.replace('_', ' ').replace('fips', 'FIPS').replace(' xor', ' XOR')} {text}"
