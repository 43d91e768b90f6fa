# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a key can stand, and what takes it from one state to the next: the whole table.

The chances of a false step and of a missed fault are computed in
tests/unit/feeder/test_feeder_life_figures.py, and told in docs/entropy.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

# Clean blocks in a row that admit a key. Four admit noise biased to 0.52 with a chance of 8e-6; with that
# of PROBE they are 3.1 s at 4 kB/s. SP 800-90B, 4.3, asks for 1,024 samples: a block has 20,000.
START_UP_BLOCKS = 4
READMIT_BLOCKS = 20  # after a suspicion

# Of the last RECENT_BLOCKS: of a perfect source 5 fail once in 500,000 years at 4 kB/s (4 would: in 600).
RECENT_BLOCKS = 10
SUSPECT_FAILED = 5
RELAPSE_FAILED = 3  # where nothing is used anyway, and much is wanted

# The failure rate is an exponential average. A perfect source has 0.0008, and exceeds the limit less than
# once in 100,000 years at 4 kB/s (it would exceed 0.007, the limit of seedd, about once in 50).
RATE_BLOCKS = 1000
RATE_LIMIT = 0.010
RATE_CLEAR = RATE_LIMIT / 2  # a key is admitted only below this

# 21 min. Of 50,000 perfect sources just above RATE_LIMIT one is not below RATE_CLEAR by then.
SUSPECT_BLOCKS = 2000

QUARANTINE_S = 60.0
QUARANTINE_MAX_S = 3600.0
DAY_S = 86_400.0
QUARANTINES_MAX = 3  # within DAY_S: that many are the end


class State(Enum):
    """Where a key stands. In none but OK is anything of it used."""

    PROBE = "probe"
    STARTUP = "startup"
    OK = "ok"
    SUSPECT = "suspect"
    QUARANTINE = "quarantine"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known after a block: since the key entered its state, but for `rate` and `quarantines`."""

    blocks: int  # tested
    clean: int  # in a row, up to now
    failed: int  # of the last RECENT_BLOCKS
    wanted: int  # clean in a row, to be admitted
    rate: float  # of failed blocks, 0 to 1
    quarantines: int  # that began within DAY_S
    released: bool  # the time of the quarantine is over
    alarm: str | None  # of the continuous tests
    fault: str | None  # nothing that chance or a disturbance could bring about


@dataclass(frozen=True, slots=True)
class Rule:
    """A key that is `at` a state goes `to` another when `when` holds; `why` says so, of the evidence `e`."""

    at: State
    to: State
    when: Callable[[Evidence], bool]
    why: str


def _has_begun(e: Evidence) -> bool:
    return e.blocks >= 1


def _is_broken(e: Evidence) -> bool:
    return e.fault is not None


def _alarms(e: Evidence) -> bool:
    return e.alarm is not None


def _fails_often(e: Evidence) -> bool:
    return e.failed >= SUSPECT_FAILED


def _fails_again(e: Evidence) -> bool:
    return e.failed >= RELAPSE_FAILED


def _is_above_the_limit(e: Evidence) -> bool:
    return e.rate > RATE_LIMIT


def _is_proved(e: Evidence) -> bool:
    return e.clean >= e.wanted and e.rate < RATE_CLEAR


def _stays_undecided(e: Evidence) -> bool:
    return e.blocks >= SUSPECT_BLOCKS


def _is_released(e: Evidence) -> bool:
    return e.released


def _is_one_too_many(e: Evidence) -> bool:
    return e.quarantines >= QUARANTINES_MAX


_RECENT = f"{{e.failed}} of the last {RECENT_BLOCKS} blocks failed"
_PROVED = "{e.clean} clean blocks in a row"
_RATE = f"more than {1000 * RATE_LIMIT:g} per 1,000 blocks fail"
_UNDECIDED = f"after {SUSPECT_BLOCKS:,} blocks more it is not clean"
_DAY = f"quarantine {{e.quarantines}} within {DAY_S / 3600:.0f} h"
_P, _S, _O, _U, _Q, _F = State

# Of the rules for a state the first that holds counts. No rule leads out of FAILED.
RULES = (
    #     at  to
    Rule(_P, _F, _is_broken, "{e.fault}"),
    Rule(_P, _S, _has_begun, "the first block of the session is in"),
    #
    Rule(_S, _F, _is_broken, "{e.fault}"),
    Rule(_S, _Q, _alarms, "{e.alarm}"),
    Rule(_S, _Q, _fails_again, _RECENT),
    Rule(_S, _O, _is_proved, _PROVED),
    #
    Rule(_O, _F, _is_broken, "{e.fault}"),
    Rule(_O, _U, _alarms, "{e.alarm}"),
    Rule(_O, _U, _fails_often, _RECENT),
    Rule(_O, _U, _is_above_the_limit, _RATE),
    #
    Rule(_U, _F, _is_broken, "{e.fault}"),
    Rule(_U, _Q, _alarms, "{e.alarm}"),
    Rule(_U, _Q, _fails_again, _RECENT),
    Rule(_U, _O, _is_proved, _PROVED),
    Rule(_U, _Q, _stays_undecided, _UNDECIDED),
    #
    Rule(_Q, _F, _is_broken, "{e.fault}"),
    Rule(_Q, _F, _is_one_too_many, _DAY),
    Rule(_Q, _S, _is_released, "its time is over"),
)


def rule(state: State, evidence: Evidence) -> Rule | None:
    """Return what moves a key now, or None where it stays."""
    return next((one for one in RULES if one.at is state and one.when(evidence)), None)
