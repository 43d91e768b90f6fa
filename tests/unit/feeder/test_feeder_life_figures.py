# SPDX-License-Identifier: LGPL-2.1-or-later
"""The numbers of the table, computed: how rarely a perfect source is suspected, how soon a bad one is caught.

Every figure of docs/entropy.md about the states is one of these.
"""

import random
from math import comb, exp, expm1, log, log1p

import pytest

from virtrng.entropy.params import BLOCK_BITS, BLOCK_BYTES, REPLAY_SLOTS, rct_cutoff
from virtrng.feeder import states

# Counted over 5.6 million blocks of a cipher: docs/entropy.md.
PERFECT = 1 / 1260
# What blocks of a biased source fail with, measured: 0.51, 0.52.
BIASED_51, BIASED_52 = 0.16, 0.96

BLOCKS = 1000 * 365.25 * 86_400 * 4000 / BLOCK_BYTES  # in a thousand years, at 4 kB/s


def at_least(few: int, of: int, p: float) -> float:
    """Return the chance that at least `few` of so many blocks fail."""
    return sum(comb(of, n) * p**n * (1 - p) ** (of - n) for n in range(few, of + 1))


def recent_alarms(few: int) -> float:
    """Return how often at most, in a thousand years, a failed block makes `few` of the last ones."""
    return BLOCKS * PERFECT * at_least(few - 1, states.RECENT_BLOCKS - 1, PERFECT)


def rate_alarms(limit: float) -> float:
    """Return how often at most, in a thousand years, a block fails and lifts the rate above `limit`.

    Before that block the rate is S, a sum over all earlier blocks of x_j q^j / N, and starts
    below it. Chernoff: P(S >= s) <= E[exp(t S)] / exp(t s) for every t > 0, a product of one factor a block.
    """
    size = states.RATE_BLOCKS
    q = 1 - 1 / size
    s = (limit - 1 / size) / q
    exponents = []
    for t in (size * quarter / 4 for quarter in range(12, 22)):
        weights = [t / size * q**j for j in range(20 * size)]
        # What is left out: log1p(p expm1(u)) <= 1.01 p u for such small u, and the u are a geometric series.
        rest = 1.01 * PERFECT * weights[-1] * size
        exponents.append(sum(log1p(PERFECT * expm1(u)) for u in weights) + rest - t * s)
    return BLOCKS * PERFECT * exp(min(exponents))


def test_a_perfect_source_is_suspected_less_than_once_in_a_thousand_years() -> None:
    recent, rate = recent_alarms(states.SUSPECT_FAILED), rate_alarms(states.RATE_LIMIT)
    assert 0.0019 < recent < 0.0021
    assert 0.0080 < rate < 0.0090
    # The repetition count at the default claim, runs of 81 bits; the other test's windows are far rarer.
    assert BLOCKS * BLOCK_BITS * 2.0 ** -rct_cutoff(0.5) < 1e-9
    assert recent + rate < 0.011


def test_less_would_be_too_little() -> None:
    assert recent_alarms(states.SUSPECT_FAILED - 1) > 1.6
    assert rate_alarms(0.007) > 100, "a bound; by a numerical solution it is 19"


def test_the_claim_up_to_which_repetition_counts_are_as_rare() -> None:
    assert BLOCKS * BLOCK_BITS * 2.0 ** -rct_cutoff(0.8) < 0.5
    assert 400 < BLOCKS * BLOCK_BITS * 2.0 ** -rct_cutoff(1.0) < 500, "for a claim of 1: every two years"


def test_a_replay_by_chance() -> None:
    windows = BLOCKS * BLOCK_BYTES / 256
    assert windows * 2.0**-64 < 1e-7  # by the fingerprint: one comparison a window
    assert (
        windows * REPLAY_SLOTS * 2.0 ** (-31 * 8 * 0.3) < 1e-5
    )  # by the bytes, of a source of 0.3 bit per bit


def test_noise_biased_to_052_is_caught_within_ten_blocks() -> None:
    assert at_least(states.SUSPECT_FAILED, states.RECENT_BLOCKS, BIASED_52) > 1 - 1e-6


def outcomes(p: float, wanted: int) -> tuple[float, float]:
    """Return the chances that a start-up ends in QUARANTINE and in OK, where the failure rate allows it."""
    waiting = {((False,) * states.RECENT_BLOCKS, 0): 1.0}
    quarantine = ok = 0.0
    while sum(waiting.values()) > 1e-15:
        then: dict[tuple[tuple[bool, ...], int], float] = {}
        for (recent, clean), chance in waiting.items():
            for failed, part in ((True, p * chance), (False, (1 - p) * chance)):
                known, row = (*recent[1:], failed), 0 if failed else clean + 1
                if sum(known) >= states.RELAPSE_FAILED:
                    quarantine += part
                elif row >= wanted:
                    ok += part
                else:
                    then[known, row] = then.get((known, row), 0.0) + part
        waiting = then
    return quarantine, ok


def test_who_passes_a_start_up() -> None:
    quarantined, _ = outcomes(PERFECT, states.START_UP_BLOCKS)
    assert quarantined < 4e-8
    assert outcomes(PERFECT, states.READMIT_BLOCKS)[0] < 4e-7
    assert outcomes(BIASED_52, states.START_UP_BLOCKS)[1] < 1e-5
    assert 0.85 < outcomes(BIASED_51, states.START_UP_BLOCKS)[1] < 0.90
    assert 0.12 < outcomes(BIASED_51, states.READMIT_BLOCKS)[1] < 0.14


def blocks_until_suspected(p: float, chance: random.Random) -> int:
    rate, recent, number = PERFECT, [False] * states.RECENT_BLOCKS, 0
    while rate <= states.RATE_LIMIT and sum(recent) < states.SUSPECT_FAILED:
        failed = chance.random() < p
        rate += (failed - rate) / states.RATE_BLOCKS
        recent = [*recent[1:], failed]
        number += 1
    return number


# Of 100 blocks so many fail; the mean and, 99 times in 100, the most blocks until the key is suspected.
@pytest.mark.parametrize(
    ("percent", "mean", "most"), [(96, 5, 7), (51, 11, 40), (16, 60, 120), (3, 385, 850), (2, 660, 1500)]
)
def test_how_soon_a_failure_rate_is_noticed(percent: int, mean: int, most: int) -> None:
    chance = random.Random(percent)
    counts = sorted(blocks_until_suspected(percent / 100, chance) for _ in range(400))
    assert sum(counts) / len(counts) == pytest.approx(mean, rel=0.12)
    assert counts[int(0.99 * len(counts))] <= most


def blocks_until_clear(rate: float, chance: random.Random) -> int:
    """Return after how many blocks a perfect source is proved again."""
    q, number = 1 - 1 / states.RATE_BLOCKS, 0
    while True:
        clean = int(log(1 - chance.random()) / log1p(-PERFECT))
        wanted = max(states.READMIT_BLOCKS, int(log(states.RATE_CLEAR / rate) / log(q)) + 1)
        if clean >= wanted:
            return number + wanted
        number += clean + 1
        rate = rate * q ** (clean + 1) + 1 / states.RATE_BLOCKS


@pytest.mark.parametrize(
    ("rate", "usual", "longest"),
    [(0.0018, 20, 2000), (0.0058, 150, 2000), (0.011, 790, 2000), (1.0, 5430, 7000)],
)
def test_how_long_a_perfect_source_waits_to_be_trusted_again(rate: float, usual: int, longest: int) -> None:
    chance = random.Random(1)
    counts = sorted(blocks_until_clear(rate, chance) for _ in range(2000))
    assert counts[1000] == pytest.approx(usual, rel=0.05)
    assert counts[-1] <= longest
