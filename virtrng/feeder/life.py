# SPDX-License-Identifier: LGPL-2.1-or-later
"""One key's life: its noise in, the blocks that may be credited out.

Where it stands, the table of feeder.states decides.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from virtrng.entropy.fips140 import Fips140
from virtrng.entropy.health import HealthTests
from virtrng.entropy.params import BLOCK_BYTES, BLOCK_TESTS, REPEAT_TESTS, STREAM_TESTS
from virtrng.entropy.repeats import Repeats
from virtrng.feeder.states import (
    DAY_S,
    QUARANTINE_MAX_S,
    QUARANTINE_S,
    RATE_BLOCKS,
    READMIT_BLOCKS,
    RECENT_BLOCKS,
    START_UP_BLOCKS,
    Evidence,
    State,
    rule,
)
from virtrng.keys.base import Noise

log = logging.getLogger(__name__)

_LEVELS = {State.SUSPECT: logging.WARNING, State.QUARANTINE: logging.WARNING, State.FAILED: logging.ERROR}
_FAULTS = dict(
    zip(
        REPEAT_TESTS,
        ("one value and nothing else", "a short cycle", "a replay of bytes that came before"),
        strict=True,
    )
)


@dataclass(frozen=True, slots=True)
class Tested:
    """A block that passed, with the entropy claimed for it."""

    data: bytes
    assessed_bits: int


@dataclass(slots=True)
class _Since:
    """What the rules look at, counted anew in each state."""

    blocks: int = 0
    clean: int = 0
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT_BLOCKS))
    alarm: str | None = None
    fault: str | None = None

    def count(self, *, failed: bool) -> None:
        self.blocks += 1
        self.clean = 0 if failed else self.clean + 1
        self.recent.append(failed)


class KeyLife:
    """The tests of one key, and what they have led to; not thread-safe.

    It is kept for as long as the feeder runs, plugged in or not: a loose contact makes no bad key good.

    `failures` counts blocks by the test that they failed, all tests named; `failure_rate` is the
    moving part of blocks that failed, 0 to 1. `reason` says why the key is in its `state`, None before its
    first session; `until_s` by the clock, until when at least a quarantine lasts; `last_fault`,
    what the last bad block was.
    """

    def __init__(self, name: str, min_entropy: float, clock: Callable[[], float]) -> None:
        """`min_entropy` is in bits per bit; `clock` counts seconds, suspended ones too, and never goes back.

        Raises ValueError unless 0 < min_entropy <= 1.
        """
        self.state = State.PROBE
        self.bytes_read = 0
        self.blocks_tested = 0
        self.blocks_failed = 0
        self.failures = dict.fromkeys((*BLOCK_TESTS, *STREAM_TESTS, *REPEAT_TESTS), 0)
        self.failure_rate = 0.0
        self.reason: str | None = None
        self.until_s: float | None = None
        self.last_fault: str | None = None
        self._name = name
        self._clock = clock
        self._fips = Fips140()
        self._health = HealthTests(min_entropy)
        self._repeats = Repeats()
        self._wanted = START_UP_BLOCKS
        self._quarantined_at_s: list[float] = []
        self._quarantine_s = 0.0
        self._since = _Since()
        self._forget_the_stream()

    @property
    def quarantines(self) -> int:
        """How many began within the last 24 hours."""
        since_s = self._clock() - DAY_S
        self._quarantined_at_s = [at_s for at_s in self._quarantined_at_s if at_s > since_s]
        return len(self._quarantined_at_s)

    def begin(self) -> None:
        """Begin a new session: what was read and not tested yet is dropped, and the key is in PROBE.

        A quarantine and a failure stay, and so does all that was counted and remembered.
        """
        self._forget_the_stream()
        if self.state in (State.STARTUP, State.OK, State.SUSPECT):
            self._enter(State.PROBE, "a new session")

    def take(self, noise: Noise) -> list[Tested]:
        """Test the blocks that `noise` completes; return those that may be credited, in their order.

        Raises nothing, whatever the bytes. A call that ends the state OK returns nothing, and leaves
        what follows to the next call: so the caller always sees that state end.
        """
        self.bytes_read += len(noise.data)
        if self.state is State.FAILED:
            return []
        self._pending += noise.data
        self._pending_bits += noise.claimed_bits
        passed = []
        while len(self._pending) >= BLOCK_BYTES:
            before = self.state
            tested = Tested(*self._next_block())
            clean = self._test(tested.data)
            if self.state is State.OK and clean:
                passed.append(tested)
            if before is State.OK and self.state is not State.OK:
                return []
        return passed

    def _next_block(self) -> tuple[bytes, int]:
        # The claim is spread evenly over the bytes and rounded down: it can only fall.
        bits = self._pending_bits * BLOCK_BYTES // len(self._pending)
        block = bytes(self._pending[:BLOCK_BYTES])
        del self._pending[:BLOCK_BYTES]
        self._pending_bits -= bits
        return block, bits

    def _test(self, block: bytes) -> bool:
        """Run every test, count, and move on if a rule says so; return whether the block is clean."""
        failures = self._fips.test(block)
        alarms = self._health.feed(block)
        faults = self._repeats.test(block)
        failed = failures | alarms | faults
        self.blocks_tested += 1
        self.blocks_failed += bool(failed)
        for name in failed:
            self.failures[name] += 1
        self.failure_rate += (bool(failed) - self.failure_rate) / RATE_BLOCKS
        self._since.count(failed=bool(failed))
        if faults:
            self._since.fault = self._found(_FAULTS[name] for name in REPEAT_TESTS if name in faults)
        elif alarms:
            self._since.alarm = self._found(self._alarm_text(name) for name in STREAM_TESTS if name in alarms)
        elif failures:
            self.last_fault = f"block {self.blocks_tested:,} dropped: it failed {', '.join(sorted(failures))}"
            log.debug("%s: %s", self._name, self.last_fault)
        self._move()
        return not failed

    def _found(self, what: Iterable[str]) -> str:
        self.last_fault = f"block {self.blocks_tested:,}: {', '.join(what)}"
        return self.last_fault

    def _alarm_text(self, test: str) -> str:
        repeats = test == "repetition_count"
        cutoff = self._health.rct_cutoff if repeats else self._health.apt_cutoff
        return f"{test} alarm (cutoff {cutoff} bits)"

    # --- from state to state

    def _move(self) -> None:
        evidence = self._evidence()
        while step := rule(self.state, evidence):
            self._enter(step.to, step.why.format(e=evidence))
            evidence = self._evidence()

    def _evidence(self) -> Evidence:
        return Evidence(
            blocks=self._since.blocks,
            clean=self._since.clean,
            failed=sum(self._since.recent),
            wanted=self._wanted,
            rate=self.failure_rate,
            quarantines=self.quarantines,
            released=self.until_s is not None and self._clock() >= self.until_s,
            alarm=self._since.alarm,
            fault=self._since.fault,
        )

    def _enter(self, state: State, reason: str) -> None:
        was, self.state, self.reason = self.state, state, reason
        self.until_s = None
        self._since = _Since()
        if state is State.OK:
            self._wanted = START_UP_BLOCKS
        elif state in (State.SUSPECT, State.QUARANTINE):
            self._wanted = READMIT_BLOCKS
        if state is State.QUARANTINE:
            self._begin_quarantine()
        elif state is State.FAILED:
            self._forget_the_stream()
        log.log(
            _LEVELS.get(state, logging.INFO),
            "%s: %s, after %s: %s: %s (failure rate %.1f per 1,000; %s of %s blocks failed)",
            self._name, state.value, was.value, reason, self._consequence(),
            1000 * self.failure_rate, f"{self.blocks_failed:,}", f"{self.blocks_tested:,}",
        )  # fmt: skip

    def _begin_quarantine(self) -> None:
        # It doubles from one to the next unless a whole day lies between them.
        longer_s = min(2 * self._quarantine_s, QUARANTINE_MAX_S)
        self._quarantine_s = longer_s if self.quarantines else QUARANTINE_S
        self._quarantined_at_s.append(self._clock())
        self.until_s = self._clock() + self._quarantine_s

    def _consequence(self) -> str:
        match self.state:
            case State.OK:
                return "used from now on"
            case State.QUARANTINE:
                return f"not used for {self._quarantine_s:.0f} s at least"
            case State.FAILED:
                return "not used again until the service is restarted"
            case _:
                return "not used"

    def _forget_the_stream(self) -> None:
        self._pending = bytearray()
        self._pending_bits = 0
        self._health.reset()
