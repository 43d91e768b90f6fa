# SPDX-License-Identifier: LGPL-2.1-or-later
"""The numbers of the tests and of the conditioner, and how the cutoffs follow from a claim.

Sources: FIPS 140-2, section 4.9.1, as changed on 2001-10-10 (the tests were
withdrawn by the change notice of 2002-12-03; virtrng keeps them as a smoke
alarm); NIST SP 800-90B, clauses 4.4.1, 4.4.2 and 3.1.5.1.2. The bounds of the
former are those that `rngtest` applies (each was tried from either side), the cutoffs of
the latter agree with other implementations; the wording of the clauses was not at hand.
"""

from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

# --- FIPS 140-2, 4.9.1: one block is 20,000 bits

BLOCK_BYTES = 2500
BLOCK_BITS = 8 * BLOCK_BYTES
BLOCK_NIBBLES = 2 * BLOCK_BYTES

BLOCK_TESTS = ("monobit", "poker", "runs", "long_run", "continuous_run")
"""The names of the block tests, in the order in which `rngtest` prints them."""

# 9725 < ones < 10275, both excluded.
MONOBIT_MIN_BITS = 9726
MONOBIT_MAX_BITS = 10274

# 2.16 < X < 46.17 with X = 16/5000 * sum(f^2) - 5000, as bounds of sum(f^2), both allowed.
# The sum is always even: the f add up to 5000.
POKER_MIN = 1_563_176
POKER_MAX = 1_576_928

# Runs of 1, 2, 3, 4, 5, and 6 or more equal bits; the same for ones and for zeros; both bounds allowed.
RUNS_MIN = (2315, 1114, 527, 240, 103, 103)
RUNS_MAX = (2685, 1386, 723, 384, 209, 209)

LONG_RUN_BITS = 26  # a run this long fails the block

WORD_BYTES = 4  # the continuous test compares neighbouring words; 32 bits is the choice of rng-tools

# --- SP 800-90B, 4.4: the continuous tests, here over single bits

STREAM_TESTS = ("repetition_count", "adaptive_proportion")
"""The names of the continuous tests."""

WINDOW_BITS = 1024  # 4.4.2: the window of binary samples; 512 for all others
WINDOW_BYTES = WINDOW_BITS // 8

# The chance of a false alarm is 2^-ALPHA_EXPONENT per sample or window. 90B's usual range is 20 to 40.
# At 2^-20 a perfect 50 kB/s key would alarm within seconds; at 2^-40 within months.
ALPHA_EXPONENT = 40
ALPHA_EXPONENT_MIN = 20
ALPHA_EXPONENT_MAX = 40

WHITENED_MIN_ENTROPY = 0.5  # bits per bit, claimed by default for a key that whitens its noise itself

# --- noise that came before: our own tests, with chances in docs/entropy.md

REPEAT_TESTS = ("one_value", "cycle", "replay")
"""The names of the tests for repetition."""

REPEAT_BYTES = BLOCK_BYTES // 2  # so much of one block, found again in it or in the one before, is a cycle
# A replay is one window of 32 bytes that came before. Even of a source of 0.3 bit per bit no two windows
# are equal by chance: 74 bits, against 2^56 pairs in a thousand years at 4 kB/s.
REPLAY_WINDOW_BYTES = 32
REPLAY_MARK = (
    b"\x5a"  # windows begin with this byte, one in 256, so that they are the same ones at any offset
)
REPLAY_SLOTS = 1 << 17  # of 8 bytes each

# --- SP 800-90B, 3.1.5.1.2: conditioning

SEED_BYTES = 32
SEED_BITS = 8 * SEED_BYTES
# A vetted function gives full entropy from 64 bits more than it puts out.
CONDITIONER_INPUT_BITS = SEED_BITS + 64


def rct_cutoff(min_entropy: float, alpha_exponent: int = ALPHA_EXPONENT) -> int:
    """Return how many equal samples in a row are an alarm: 1 + ceil(alpha_exponent / min_entropy).

    `min_entropy` is the claim in bits per sample, taken as the decimal that
    it prints as: 0.3 means three tenths, not the binary number next to it.
    Raises ValueError unless both are positive. Source: SP 800-90B, 4.4.1.
    """
    _require_positive(min_entropy, alpha_exponent)
    return 1 - (-alpha_exponent // Fraction(str(min_entropy)))


@lru_cache(maxsize=64)
def apt_cutoff(min_entropy: float, window: int, alpha_exponent: int = ALPHA_EXPONENT) -> int:
    """Return how often the first sample of a window may not occur in it, itself counted.

    That is 1 + CRITBINOM(window, 2^-min_entropy, 1 - 2^-alpha_exponent), or
    the least C such that P(X >= C) <= 2^-alpha_exponent for the binomial X.
    `window` is in samples. For a very small claim C is window + 1: no window
    can then fail. Raises ValueError unless all are positive.
    Source: SP 800-90B, 4.4.2.
    """
    _require_positive(min_entropy, alpha_exponent)
    if window < 1:
        raise ValueError(f"the window is {window} samples")
    # At 60 digits rounding could only matter to a tail within 1e-50 or so of alpha: that is a tie.
    with localcontext() as context:
        context.prec = 60
        alpha = Decimal(2) ** -alpha_exponent * (1 + Decimal("1e-50"))
        p = Decimal(2) ** -Decimal(str(min_entropy))
        odds = (1 - p) / p
        term, tail, count = p**window, Decimal(0), window
        while tail + term <= alpha:
            tail += term
            term = term * count / (window - count + 1) * odds
            count -= 1
    return count + 1


def _require_positive(min_entropy: float, alpha_exponent: int) -> None:
    if min_entropy <= 0:
        raise ValueError(f"the claimed min-entropy is {min_entropy} bits per sample")
    if alpha_exponent < 1:
        raise ValueError(f"the exponent of alpha is {alpha_exponent}")
