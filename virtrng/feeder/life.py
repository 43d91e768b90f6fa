# SPDX-License-Identifier: LGPL-2.1-or-later
"""One key's life: its noise in, the blocks that passed every test out.

STARTUP  nothing is passed on until START_UP_BLOCKS in a row were clean.
OK       a block that fails FIPS 140-2 is dropped whole and counted.
QUARANTINE  after an alarm of the continuous tests: read and tested on, nothing
         passed on for QUARANTINE_S; then STARTUP again.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from virtrng.entropy.fips140 import Fips140
from virtrng.entropy.health import HealthTests
from virtrng.entropy.params import BLOCK_BYTES
from virtrng.keys.base import Noise

log = logging.getLogger(__name__)

# SP 800-90B 4.3 wants at least 1,024 consecutive samples tested before the first
# output; a block has 20,000 of them.
START_UP_BLOCKS = 1
QUARANTINE_S = 60.0


class State(Enum):
    """Where a key stands."""

    STARTUP = "startup"
    OK = "ok"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Tested:
    """A block that passed, with the entropy claimed for it."""

    data: bytes
    assessed_bits: int


class KeyLife:
    """The tests of one key, and what they have led to."""

    def __init__(self, name: str, min_entropy: float, clock: Callable[[], float]) -> None:
        """`min_entropy` is in bits per bit; `clock` counts seconds and never goes back."""
        self.state = State.STARTUP
        self.bytes_read = 0
        self.blocks_tested = 0
        self.blocks_failed = 0
        self.last_fault: str | None = None
        self._name = name
        self._clock = clock
        self._fips = Fips140()
        self._health = HealthTests(min_entropy)
        self._clean = 0
        self._released_at = 0.0
        self._pending = bytearray()
        self._pending_bits = 0

    def take(self, noise: Noise) -> list[Tested]:
        """Test whatever blocks `noise` completes; return those that may be used."""
        self.bytes_read += len(noise.data)
        self._pending += noise.data
        self._pending_bits += noise.claimed_bits
        passed = []
        while len(self._pending) >= BLOCK_BYTES:
            tested = self._test(*self._next_block())
            if tested is not None:
                passed.append(tested)
        return passed

    def _next_block(self) -> tuple[bytes, int]:
        # The claim is spread evenly over the bytes and rounded down: it can only fall.
        bits = self._pending_bits * BLOCK_BYTES // len(self._pending)
        block = bytes(self._pending[:BLOCK_BYTES])
        del self._pending[:BLOCK_BYTES]
        self._pending_bits -= bits
        return block, bits

    def _test(self, block: bytes, bits: int) -> Tested | None:
        failures = self._fips.test(block)
        alarms = self._health.feed(block)
        self.blocks_tested += 1
        self.blocks_failed += bool(failures or alarms)
        if alarms:
            self._quarantine(alarms)
        elif failures:
            self._clean = 0
            self.last_fault = f"block {self.blocks_tested} dropped: it failed {_list(failures)}"
            log.warning("%s: %s", self._name, self.last_fault)
        elif self._admitted():
            return Tested(block, bits)
        return None

    def _quarantine(self, alarms: frozenset[str]) -> None:
        self.state = State.QUARANTINE
        self._clean = 0
        self._released_at = self._clock() + QUARANTINE_S
        self.last_fault = f"{_list(alarms)} alarm in block {self.blocks_tested}"
        log.error("%s: %s: nothing of it is used for %d s", self._name, self.last_fault, QUARANTINE_S)

    def _admitted(self) -> bool:
        if self.state is State.OK:
            return True
        if self.state is State.QUARANTINE:
            if self._clock() < self._released_at:
                return False
            self.state = State.STARTUP
            log.info("%s: quarantine over, start-up tests again", self._name)
        self._clean += 1
        if self._clean < START_UP_BLOCKS:
            return False
        self.state = State.OK
        log.info("%s: start-up tests passed: its bytes are used from now on", self._name)
        return True


def _list(tests: frozenset[str]) -> str:
    return ", ".join(sorted(tests))
