# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the Entropy Key says of itself, as figures with units and in words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from virtrng.keys.entropykey.telemetry import Estimates, Telemetry, meaning

# The captured frames of README.protocol.
STATISTICS = "S08052:23751:23792:23584:07112:20876:08063:24150:0"
ESTIMATES = {
    "raw_left_shannons_per_byte": 2.95,
    "raw_right_shannons_per_byte": 2.955,
    "raw_xor_shannons_per_byte": 2.929,
    "debiased_left_shannons_per_byte": 2.935,
    "debiased_right_shannons_per_byte": 2.995,
}


def test_nothing_was_said() -> None:
    assert Telemetry().figures == {}
    assert Telemetry().verdict is None


def test_temperature_and_supply() -> None:
    assert Telemetry().updated("T03143 V03254").figures == {"temperature_k": 314.3, "supply_v": 3.254}
    assert Telemetry().updated("V00000").figures == {"supply_v": 0.0}


def test_fips_counters() -> None:
    assert Telemetry().updated("F07342:00006:00001:00002:00003").figures == {
        "fips_blocks": 7342,
        "fips_failures": 6,
        "fips_monobit_failures": 1,
        "fips_poker_failures": 2,
        "fips_runs_failures": 3,
    }


def test_estimates_and_verdict() -> None:
    telemetry = Telemetry().updated(STATISTICS)
    assert telemetry.estimates == Estimates(8052, 23751, 23792, 23584, 7112, 20876, 8063, 24150)
    assert telemetry.figures == ESTIMATES
    assert telemetry.verdict == "no failure"


def test_each_frame_adds_to_what_was_said() -> None:
    telemetry = Telemetry()
    for text in (STATISTICS, "T03143 V03254", "F00001:00000:00000:00000:00000", "T03150"):
        telemetry = telemetry.updated(text)
    figures = telemetry.figures
    assert (figures["temperature_k"], figures["supply_v"], figures["fips_blocks"]) == (315.0, 3.254, 1)
    assert figures.items() >= ESTIMATES.items()


@pytest.mark.parametrize("letter", "123456789ABx")
def test_badness_in_words(letter: str) -> None:
    assert Telemetry().updated(STATISTICS[:-1] + letter).verdict == meaning(letter)


def test_estimates_over_few_bytes_are_none() -> None:
    few = Telemetry().updated("S00100:00300:00300:00300:00101:00303:00000:00000:0")
    assert few.figures == {"debiased_left_shannons_per_byte": 3.0}


@pytest.mark.parametrize("figures", ["::::::::", "*****:1:1:1:1:1:1:1:", "-0001:1:1:1:1:1:1:1:"])
def test_figures_of_a_failed_key_may_be_anything(figures: str) -> None:
    telemetry = Telemetry().updated(f"S{figures}8")
    assert (telemetry.figures, telemetry.verdict) == ({}, meaning("8"))


def blocks(telemetry: Telemetry, count: int, now_s: float | None) -> Telemetry:
    return telemetry.updated(f"F{count:05}:00000:00000:00000:00000", now_s)


def test_the_rate_of_blocks_as_ekeyd_has_it() -> None:
    telemetry = blocks(Telemetry(), 100, 1000.0)
    assert telemetry.fips_blocks_per_s is None
    telemetry = blocks(telemetry, 180, 1050.0)  # no more than 50 s
    assert telemetry.fips_blocks_per_s is None
    telemetry = blocks(telemetry, 184, 1052.5)
    assert telemetry.figures["fips_blocks_per_s"] == 1.6
    telemetry = blocks(telemetry, 185, 1053.0)
    assert telemetry.fips_blocks_per_s == 1.6
    telemetry = blocks(telemetry, 286, 1153.5)
    assert telemetry.fips_blocks_per_s == 1.01


def test_a_count_that_begins_anew_gives_no_rate() -> None:
    telemetry = blocks(blocks(Telemetry(), 99_000, 0.0), 10, 100.0)
    assert telemetry.fips_blocks_per_s is None
    assert blocks(telemetry, 110, 200.0).fips_blocks_per_s == 1.0


def test_without_a_clock_there_is_no_rate() -> None:
    assert "fips_blocks_per_s" not in blocks(blocks(Telemetry(), 1, None), 1000, None).figures


@settings(derandomize=True, max_examples=scaled(200))
@given(st.text(st.sampled_from("STVF0123456789: x\u0663"), max_size=50))
def test_any_text_is_telemetry_or_malformed(text: str) -> None:
    try:
        telemetry = Telemetry().updated(text, 1.0)
    except ValueError as error:
        assert str(error) == "an item of an I frame is malformed"  # noqa: PT017  not every text is
        return
    assert all(value >= 0 for value in telemetry.figures.values())
