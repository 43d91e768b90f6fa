# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the Entropy Key says of itself in I frames.

Source: README.protocol of ekeyd 1.1.5; the badness characters' names are those
of its host/control.lua.
"""

import re
from dataclasses import dataclass, field, replace

HEALTHY = "0"

# '6' is undefined.
_MEANINGS = {
    "1": "its left generator is no longer random",
    "2": "its right generator is no longer random",
    "3": "its generators are correlated",
    "4": "its left generator is strongly biased",
    "5": "its right generator is strongly biased",
    "7": "its temperature is too low",
    "8": "its temperature is too high",
    "9": "too many of its FIPS 140-2 blocks failed",
    "A": "its supply voltage is too low",
    "B": "its supply voltage is too high",
}

_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_TEMPERATURE = re.compile(r"T(\d{5})")
_VOLTAGE = re.compile(r"V(\d{5})")
# Blocks, failures, then monobit, poker and runs among these.
_FIPS = re.compile(r"F" + r":".join([r"(\d{5})"] * 5))
# Raw bytes and three entropy estimates, debiased bytes and estimate left and right, badness.
# What a failed key puts into the figures is not documented: the badness counts in any case.
_STATISTICS = re.compile(r"S((?:[^:]*:){8})(\S)")

# An estimate from fewer raw bytes says nothing; ekeyd shows none (host/ekeyd.c).
ESTIMATE_BYTES_MIN = 100
# The rate of blocks is taken over no less (host/connection.c).
RATE_PERIOD_S = 50.0


def meaning(badness: str) -> str:
    """Return in words why a key with this badness character has stopped itself."""
    return _MEANINGS.get(badness, "it gives a reason that is not documented")


@dataclass(frozen=True, slots=True)
class Estimates:
    """The key's own estimates of its entropy, in shannons, over the bytes that it counted so far.

    README.protocol: it begins anew every 80 Kbit of raw ones.
    """

    raw_bytes: int
    raw_left: int
    raw_right: int
    raw_xor: int
    debiased_left_bytes: int
    debiased_left: int
    debiased_right_bytes: int
    debiased_right: int

    @property
    def per_byte(self) -> dict[str, float]:
        """Shannons per byte of each, by name; only of those that saw enough bytes."""
        parts = (
            ("raw_left", self.raw_left, self.raw_bytes),
            ("raw_right", self.raw_right, self.raw_bytes),
            ("raw_xor", self.raw_xor, self.raw_bytes),
            ("debiased_left", self.debiased_left, self.debiased_left_bytes),
            ("debiased_right", self.debiased_right, self.debiased_right_bytes),
        )
        return {
            f"{name}_shannons_per_byte": round(estimate / count, 3)
            for name, estimate, count in parts
            if count > ESTIMATE_BYTES_MIN
        }


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The last that a key said; None where it has not said it yet.

    `temperature_dk` is the core's, in 0.1 K; the FIPS 140-2 figures are the
    key's own count of 20000-bit blocks, the last three by the test that failed.
    Implements keys.base.Telemetry.
    """

    temperature_dk: int | None = None
    voltage_mv: int | None = None
    fips_blocks: int | None = None
    fips_failures: int | None = None
    badness: str | None = None
    fips_monobit_failures: int | None = None
    fips_poker_failures: int | None = None
    fips_runs_failures: int | None = None
    fips_blocks_per_s: float | None = None
    fips_counted_since: tuple[int, float] | None = field(default=None, repr=False)  # blocks, seconds
    estimates: Estimates | None = None

    @property
    def figures(self) -> dict[str, float]:
        """See keys.base.Telemetry."""
        known: dict[str, float | None] = {
            "temperature_k": None if self.temperature_dk is None else self.temperature_dk / 10,
            "supply_v": None if self.voltage_mv is None else self.voltage_mv / 1000,
            "fips_blocks": self.fips_blocks,
            "fips_failures": self.fips_failures,
            "fips_monobit_failures": self.fips_monobit_failures,
            "fips_poker_failures": self.fips_poker_failures,
            "fips_runs_failures": self.fips_runs_failures,
            "fips_blocks_per_s": self.fips_blocks_per_s,
            **(self.estimates.per_byte if self.estimates else {}),
        }
        return {name: value for name, value in known.items() if value is not None}

    @property
    def verdict(self) -> str | None:
        """See keys.base.Telemetry."""
        if self.badness is None:
            return None
        return "no failure" if self.badness == HEALTHY else meaning(self.badness)

    def updated(self, text: str, now_s: float | None = None) -> "Telemetry":
        """Return this with the items of one I frame; raises ValueError if one is malformed.

        The rate of blocks is told only if each call has the time, in seconds of one clock.
        """
        latest = self
        for item in text.split():
            if found := _TEMPERATURE.fullmatch(item):
                latest = replace(latest, temperature_dk=int(found[1]))
            elif found := _VOLTAGE.fullmatch(item):
                latest = replace(latest, voltage_mv=int(found[1]))
            elif found := _FIPS.fullmatch(item):
                latest = _with_rate(_with_fips(latest, *map(int, found.groups())), now_s)
            elif found := _STATISTICS.fullmatch(item):
                latest = replace(latest, badness=found[2], estimates=_estimates(found[1]))
            else:
                raise ValueError("an item of an I frame is malformed")
        return latest


def _with_fips(
    telemetry: Telemetry, blocks: int, failures: int, monobit: int, poker: int, runs: int
) -> Telemetry:
    return replace(
        telemetry,
        fips_blocks=blocks,
        fips_failures=failures,
        fips_monobit_failures=monobit,
        fips_poker_failures=poker,
        fips_runs_failures=runs,
    )


def _with_rate(telemetry: Telemetry, now_s: float | None) -> Telemetry:
    if now_s is None or telemetry.fips_blocks is None:
        return telemetry
    here = (telemetry.fips_blocks, now_s)
    blocks, since_s = telemetry.fips_counted_since or here
    if telemetry.fips_counted_since is None or telemetry.fips_blocks < blocks:  # the count began anew
        return replace(telemetry, fips_counted_since=here)
    if now_s - since_s <= RATE_PERIOD_S:
        return telemetry
    rate = round((telemetry.fips_blocks - blocks) / (now_s - since_s), 3)
    return replace(telemetry, fips_counted_since=here, fips_blocks_per_s=rate)


def _estimates(figures: str) -> Estimates | None:
    numbers = figures.rstrip(":").split(":")
    return Estimates(*map(int, numbers)) if all(map(_NUMBER.fullmatch, numbers)) else None


@dataclass(frozen=True, slots=True)
class Counters:
    """What one driver has seen since it was made.

    `resets` counts every ^C, that of start() included; `sessions` every K!.
    The telemetry is what the key said since start().
    """

    frames_ok: int
    frames_bad: int
    resets: int
    sessions: int
    telemetry: Telemetry
