# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cutoffs, against a table that was computed on its own, and against their definition."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from virtrng.entropy import params

# Claim in bits; cutoffs at alpha = 2^-20, 2^-30, 2^-40, from exact arithmetic. 13 is also in the data sheet
# of Nordic's nRF54LS05B, 325 in jitterentropy.
BINARY = [
    (0.5, (41, 61, 81), (793, 810, 824)),
    (0.7, (30, 44, 59), (705, 723, 739)),
    (0.8, (26, 39, 51), (664, 683, 699)),
    (0.86, (25, 36, 48), (640, 660, 676)),
    (0.9, (24, 35, 46), (625, 645, 661)),
    (1.0, (21, 31, 41), (589, 609, 625)),
]
BYTES = [
    (1, (21, 31, 41), (311, 325, 336)),
    (2, (11, 16, 21), (177, 190, 201)),
    (4, (6, 9, 11), (62, 71, 78)),
    (6, (5, 6, 8), (25, 31, 35)),
    (7, (4, 6, 7), (18, 22, 26)),
    (8, (4, 5, 6), (13, 16, 19)),
]
ALPHAS = (20, 30, 40)


@pytest.mark.parametrize(("claim", "repetition", "proportion"), BINARY)
def test_cutoffs_of_bits(claim: float, repetition: tuple[int, ...], proportion: tuple[int, ...]) -> None:
    assert tuple(params.rct_cutoff(claim, alpha) for alpha in ALPHAS) == repetition
    assert tuple(params.apt_cutoff(claim, 1024, alpha) for alpha in ALPHAS) == proportion


@pytest.mark.parametrize(("claim", "repetition", "proportion"), BYTES)
def test_cutoffs_of_bytes(claim: float, repetition: tuple[int, ...], proportion: tuple[int, ...]) -> None:
    assert tuple(params.rct_cutoff(claim, alpha) for alpha in ALPHAS) == repetition
    assert tuple(params.apt_cutoff(claim, 512, alpha) for alpha in ALPHAS) == proportion


def test_other_known_cutoffs() -> None:
    assert params.apt_cutoff(0.2, 1024, 20) == 941
    assert params.apt_cutoff(0.5, 512, 20) == 410


def test_the_default_alpha_is_2_to_the_minus_40() -> None:
    assert params.rct_cutoff(0.5) == params.rct_cutoff(0.5, 40)
    assert params.apt_cutoff(0.5, 1024) == params.apt_cutoff(0.5, 1024, 40)


def test_a_claim_is_the_decimal_that_it_prints_as() -> None:
    # The double nearest to 0.3 is below it: taken as such, 30 / 0.3 would round up to 101.
    assert params.rct_cutoff(0.3, 30) == 101


def test_a_claim_too_small_for_the_window_never_fails() -> None:
    assert params.apt_cutoff(0.01, 1024, 40) == 1025


@given(whole=st.integers(1, 8), window=st.integers(1, 200), alpha=st.integers(1, 40))
@settings(derandomize=True, max_examples=scaled(60))
def test_cutoff_of_a_proportion_in_exact_fractions(whole: int, window: int, alpha: int) -> None:
    p = Fraction(1, 2**whole)

    def tail(cutoff: int) -> Fraction:
        terms = (comb(window, k) * p**k * (1 - p) ** (window - k) for k in range(cutoff, window + 1))
        return sum(terms, Fraction(0))

    cutoff = params.apt_cutoff(float(whole), window, alpha)
    assert tail(cutoff) <= Fraction(1, 2**alpha) < tail(cutoff - 1)


@pytest.mark.parametrize(("claim", "window", "alpha"), [(0, 1024, 40), (-1.0, 1024, 40), (0.5, 1024, 0)])
def test_nonsense_is_refused(claim: float, window: int, alpha: int) -> None:
    with pytest.raises(ValueError, match=r"claimed min-entropy|exponent"):
        params.rct_cutoff(claim, alpha)
    with pytest.raises(ValueError, match=r"claimed min-entropy|exponent"):
        params.apt_cutoff(claim, window, alpha)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="0 samples"):
        params.apt_cutoff(0.5, 0)
