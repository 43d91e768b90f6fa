# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the Entropy Key says of itself in I frames.

Source: README.protocol of ekeyd 1.1.5; the badness characters' names are those
of its host/control.lua.
"""

import re
from dataclasses import dataclass, replace

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

_TEMPERATURE = re.compile(r"T(\d{5})")
_VOLTAGE = re.compile(r"V(\d{5})")
# Blocks, failures, then monobit, poker and runs among these.
_FIPS = re.compile(r"F(\d{5}):(\d{5}):\d{5}:\d{5}:\d{5}")
# Raw bytes and three entropy estimates, debiased bytes and estimate left and right, badness.
# What a failed key puts into the figures is not documented: the badness counts in any case.
_STATISTICS = re.compile(r"S(?:[^:]*:){8}(\S)")


def meaning(badness: str) -> str:
    """Return in words why a key with this badness character has stopped itself."""
    return _MEANINGS.get(badness, "it gives a reason that is not documented")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The last that a key said; None where it has not said it yet.

    `temperature_dk` is the core's, in 0.1 K; the FIPS 140-2 figures are the
    key's own count of 20000-bit blocks.
    """

    temperature_dk: int | None = None
    voltage_mv: int | None = None
    fips_blocks: int | None = None
    fips_failures: int | None = None
    badness: str | None = None

    def updated(self, text: str) -> "Telemetry":
        """Return this with the items of one I frame; raises ValueError if one is malformed."""
        latest = self
        for item in text.split():
            if found := _TEMPERATURE.fullmatch(item):
                latest = replace(latest, temperature_dk=int(found[1]))
            elif found := _VOLTAGE.fullmatch(item):
                latest = replace(latest, voltage_mv=int(found[1]))
            elif found := _FIPS.fullmatch(item):
                latest = replace(latest, fips_blocks=int(found[1]), fips_failures=int(found[2]))
            elif found := _STATISTICS.fullmatch(item):
                latest = replace(latest, badness=found[1])
            else:
                raise ValueError("an item of an I frame is malformed")
        return latest
