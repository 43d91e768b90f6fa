# SPDX-License-Identifier: LGPL-2.1-or-later
"""The continuous tests, against the same tests taken bit by bit."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from virtrng.entropy.health import HealthTests

NONE: frozenset[str] = frozenset()
REPETITION = frozenset({"repetition_count"})
PROPORTION = frozenset({"adaptive_proportion"})


class BitByBit:
    """SP 800-90B, 4.4.1 and 4.4.2, as one would write them down."""

    def __init__(self, rct_cutoff: int, apt_cutoff: int) -> None:
        self.rct_cutoff, self.apt_cutoff = rct_cutoff, apt_cutoff
        self.last, self.run = -1, 0
        self.reference, self.occurs, self.seen = -1, 0, 0
        self.alarms = {"repetition_count": 0, "adaptive_proportion": 0}

    def feed(self, data: bytes) -> frozenset[str]:
        alarmed: set[str] = set()
        for byte in data:
            for shift in range(7, -1, -1):
                alarmed |= self.repetition(byte >> shift & 1) | self.proportion(byte >> shift & 1)
        return frozenset(alarmed)

    def repetition(self, bit: int) -> frozenset[str]:
        self.run = self.run + 1 if bit == self.last else 1
        self.last = bit
        self.alarms["repetition_count"] += self.run == self.rct_cutoff
        return REPETITION if self.run >= self.rct_cutoff else NONE

    def proportion(self, bit: int) -> frozenset[str]:
        if self.seen == 0:
            self.reference, self.occurs = bit, 0
        self.occurs += bit == self.reference
        self.seen = (self.seen + 1) % 1024
        if self.seen or self.occurs < self.apt_cutoff:
            return NONE
        self.alarms["adaptive_proportion"] += 1
        return PROPORTION


def noise(seed: int, length: int) -> bytes:
    return hashlib.shake_256(seed.to_bytes(4, "big")).digest(length)


def run_of_bits(before: int, length: int, *, ones: bool, size: int = 40) -> bytes:
    """Return `size` bytes of 0101... with one run in them, after `before` bits."""
    text = "".join("01"[at % 2] for at in range(8 * size))
    bit, other = ("1", "0") if ones else ("0", "1")
    left = text[: max(0, before - 1)] + other * min(1, before)
    right = (other + text)[: 8 * size - before - length]
    return int(left + bit * length + right, 2).to_bytes(size, "big")


# --- known answers


def test_cutoffs_of_the_default_claim() -> None:
    tests = HealthTests(0.5)
    assert (tests.rct_cutoff, tests.apt_cutoff) == (81, 824)


@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize("before", [0, 1, 7, 8, 13, 100, 320 - 81])
def test_a_run_to_the_cutoff_alarms_and_one_less_does_not(before: int, *, ones: bool) -> None:
    assert HealthTests(0.5).feed(run_of_bits(before, 80, ones=ones)) == NONE
    assert HealthTests(0.5).feed(run_of_bits(before, 81, ones=ones)) == REPETITION


@pytest.mark.parametrize("cut", range(41))
def test_a_run_across_two_calls(cut: int) -> None:
    whole = run_of_bits(100, 81, ones=True)  # its last bit is in byte 22
    tests = HealthTests(0.5)
    assert tests.feed(whole[:cut]) == (REPETITION if cut > 22 else NONE)
    assert tests.feed(whole[cut:]) == (NONE if cut > 22 else REPETITION)
    assert tests.alarms["repetition_count"] == 1


def test_a_run_fed_byte_by_byte() -> None:
    tests = HealthTests(0.5)
    alarms = [tests.feed(b"\0") == REPETITION for _ in range(20)]
    assert alarms == [False] * 10 + [True] * 10  # 80 bits, then 88 and more: it goes on being too long
    assert tests.alarms["repetition_count"] == 1
    tests.feed(b"\1" + bytes(11))
    assert tests.alarms["repetition_count"] == 2


def test_zeros_and_then_ones_are_two_runs() -> None:
    tests = HealthTests(0.5)
    assert tests.feed(bytes(20) + b"\xff" * 20) == REPETITION
    assert tests.alarms["repetition_count"] == 2
    short = HealthTests(0.5)
    assert short.feed((bytes(10) + b"\xff" * 10) * 20) == NONE  # 80 each


def window(occurs: int, *, reference: int) -> bytes:
    """Return 1024 bits that begin with `reference` and contain it `occurs` times, evenly spread."""
    bits = (reference if at * occurs % 1024 < occurs else 1 - reference for at in range(1024))
    return int("".join(map(str, bits)), 2).to_bytes(128, "big")


@pytest.mark.parametrize("reference", [0, 1])
def test_a_window_to_the_cutoff_alarms_and_one_less_does_not(reference: int) -> None:
    assert HealthTests(0.5).feed(window(823, reference=reference)) == NONE
    assert HealthTests(0.5).feed(window(824, reference=reference)) == PROPORTION


def test_only_the_first_bit_of_a_window_is_counted() -> None:
    often = window(900, reference=1)
    rare = bytes([often[0] & 0x7F]) + often[1:]  # begins with a zero; the ones are as many, but for one
    assert HealthTests(0.5).feed(often) == PROPORTION
    assert HealthTests(0.5).feed(rare) == NONE


def test_a_window_is_judged_with_its_last_byte() -> None:
    tests = HealthTests(0.5)
    bad = window(824, reference=1)
    assert tests.feed(noise(1, 128) + bad[:127]) == NONE
    assert tests.feed(bad[127:]) == PROPORTION
    assert tests.alarms == {"repetition_count": 0, "adaptive_proportion": 1}


def test_windows_do_not_overlap() -> None:
    bad = window(824, reference=1)
    assert HealthTests(0.5).feed(bytes.fromhex("55") * 64 + bad + bytes.fromhex("55") * 64) == NONE


def test_reset_forgets_the_stream_and_keeps_the_counts() -> None:
    tests = HealthTests(0.5)
    tests.feed(bytes(11))
    tests.reset()
    assert tests.feed(bytes(10)) == NONE
    tests.reset()
    assert tests.feed(window(824, reference=0)) == PROPORTION  # the window begins at the reset
    assert tests.alarms == {"repetition_count": 1, "adaptive_proportion": 1}


def test_nothing_fed_is_nothing_found() -> None:
    tests = HealthTests(0.5)
    tests.feed(bytes(20))
    assert tests.feed(b"") == NONE


def test_good_noise_is_silent() -> None:
    tests = HealthTests(1.0)
    assert tests.feed(noise(2, 250_000)) == NONE
    assert tests.alarms == {"repetition_count": 0, "adaptive_proportion": 0}


@pytest.mark.parametrize(("claim", "alpha"), [(0, 40), (-0.5, 40), (1.01, 40), (0.5, 19), (0.5, 41)])
def test_a_claim_or_alpha_out_of_range_is_refused(claim: float, alpha: int) -> None:
    with pytest.raises(ValueError, match=r"claimed min-entropy|exponent"):
        HealthTests(claim, alpha)


# --- the two against each other

pieces = st.one_of(
    st.binary(max_size=8),
    st.builds(noise, st.integers(0, 99), st.integers(0, 200)),
    st.builds(bytes.__mul__, st.sampled_from([b"\0", b"\xff", b"\1", b"\x80", b"\x7f"]), st.integers(0, 40)),
    st.builds(bytes.__mul__, st.just(b"\xff\xfb\xdf\xff\xef\x7f"), st.integers(0, 60)),
)


@given(
    stream=st.lists(pieces, max_size=12).map(b"".join),
    calls=st.lists(st.integers(0, 300), max_size=12),
    claim=st.sampled_from([(1.0, 20), (1.0, 40), (0.8, 30), (0.5, 40), (0.2, 40)]),
)
@settings(derandomize=True, max_examples=scaled(150))
def test_it_is_the_same_as_bit_by_bit(stream: bytes, calls: list[int], claim: tuple[float, int]) -> None:
    fast = HealthTests(*claim)
    slow = BitByBit(fast.rct_cutoff, fast.apt_cutoff)
    for length in [*calls, len(stream)]:
        chunk, stream = stream[:length], stream[length:]
        assert fast.feed(chunk) == slow.feed(chunk)
        assert fast.alarms == slow.alarms
