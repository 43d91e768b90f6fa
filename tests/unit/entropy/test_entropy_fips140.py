# SPDX-License-Identifier: LGPL-2.1-or-later
"""The block tests: blocks at each bound, the same tests taken bit by bit, and counts that rngtest printed."""

import hashlib
import random
from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from virtrng.entropy.fips140 import Fips140, check

BLOCK = 2500
NONE: frozenset[str] = frozenset()

# The bounds once more, as the tests' own copy: allowed are both ends.
RUNS = [(2315, 2685), (1114, 1386), (527, 723), (240, 384), (103, 209), (103, 209)]


def stream(seed: str, length: int, *, ones_of_256: int = 128) -> bytes:
    """Return bytes from SHAKE256 whose bits are one with probability ones_of_256 / 256."""
    bits = 0
    for level in range(8):  # the binary expansion of the probability, from its last digit
        level_bits = int.from_bytes(hashlib.shake_256(f"{seed}/{level}".encode()).digest(length), "big")
        bits = bits | level_bits if ones_of_256 >> level & 1 else bits & level_bits
    return bits.to_bytes(length, "big")


def to_block(text: str) -> bytes:
    assert len(text) == 8 * BLOCK
    return int(text, 2).to_bytes(BLOCK, "big")


def to_text(block: bytes) -> str:
    return f"{int.from_bytes(block, 'big'):0{8 * len(block)}b}"


GOOD = stream("a block that passes", BLOCK)


def test_a_good_block_passes() -> None:
    assert check(GOOD) == NONE


# --- each bound


@pytest.mark.parametrize(("ones", "fails"), [(9725, True), (9726, False), (10274, False), (10275, True)])
def test_monobit(ones: int, *, fails: bool) -> None:
    text = "".join(random.Random(ones).sample("1" * ones + "0" * (8 * BLOCK - ones), 8 * BLOCK))
    assert ("monobit" in check(to_block(text))) == fails


def nibbles_with_squares(wanted: int) -> bytes:
    """Return a block in which the squares of the counts of the 16 nibbles add up to `wanted`."""
    counts = [312, 313] * 8
    while (missing := wanted - sum(n * n for n in counts)) > 0:
        # One j less and one i more adds 2 * (counts[i] - counts[j] + 1): take the largest step that fits.
        steps = [(2 * (counts[i] - counts[j] + 1), i, j) for i in range(16) for j in range(16) if i != j]
        _, i, j = max(step for step in steps if 0 < step[0] <= missing)
        counts[i] += 1
        counts[j] -= 1
    assert (sum(counts), sum(n * n for n in counts)) == (2 * BLOCK, wanted)
    digits = [f"{nibble:x}" for nibble, n in enumerate(counts) for _ in range(n)]
    random.Random(wanted).shuffle(digits)
    return bytes.fromhex("".join(digits))


@pytest.mark.parametrize(
    ("squares", "fails"), [(1563174, True), (1563176, False), (1576928, False), (1576930, True)]
)
def test_poker(squares: int, *, fails: bool) -> None:
    # 2.16 < X < 46.17, with X = 16/5000 * squares - 5000.
    assert (2.16 < 16 / 5000 * squares - 5000 < 46.17) is not fails
    assert ("poker" in check(nibbles_with_squares(squares))) == fails


def block_of_runs(of_ones: list[int], of_zeros: list[int], seed: int) -> bytes:
    """Return a block with so many runs of 1, 2, 3, 4, 5 and at least 6 ones and zeros, in any order."""
    shuffle = random.Random(seed).shuffle
    lengths = [[k for k, n in enumerate(counts, 1) for _ in range(n)] for counts in (of_ones, of_zeros)]
    long_runs = [(kind, at) for kind in (0, 1) for at, k in enumerate(lengths[kind]) if k == 6]
    spare = 8 * BLOCK - sum(map(sum, lengths))
    assert 0 <= spare <= 19 * len(long_runs)
    for turn in range(spare):
        kind, at = long_runs[turn % len(long_runs)]
        lengths[kind][at] += 1
    shuffle(lengths[0])
    shuffle(lengths[1])
    assert len(lengths[0]) == len(lengths[1])
    return to_block("".join("1" * ones + "0" * zeros for ones, zeros in zip(*lengths, strict=True)))


EDGES = [
    (k, n, not low <= n <= high) for k, (low, high) in enumerate(RUNS) for n in (low - 1, low, high, high + 1)
]


@pytest.mark.parametrize(("k", "count", "fails"), EDGES)
@pytest.mark.parametrize("kind", [0, 1])
def test_runs(kind: int, k: int, count: int, *, fails: bool) -> None:
    usual = [2500, 1250, 625, 312, 156, 156]
    edged = usual.copy()
    edged[k] = count
    # As many runs as before, the others well inside their bounds.
    excess = count - usual[k]
    if k:
        edged[0] -= excess
    else:
        edged[1] -= excess // 2
        edged[2] -= excess - excess // 2
    for number in (0, 1):  # wherever the runs lie in the nibbles
        of_both = (usual, edged) if kind else (edged, usual)
        block = block_of_runs(*of_both, seed=100 * k + number)
        assert ("runs" in check(block)) == fails
        assert "runs" not in check(block_of_runs(usual, usual, seed=100 * k + number))


@pytest.mark.parametrize("one", ["0", "1"])
@pytest.mark.parametrize("at", [0, 1, 7, 8, 9994, 9997, 10000, 10011, 19973, 19974])
def test_long_run(at: int, one: str) -> None:
    other = "01"[one == "0"]
    for length in (25, 26):
        text = to_text(b"\x55" * BLOCK)
        text = text[: max(0, at - 1)] + (other if at else "") + one * length + other + text[at + length + 1 :]
        assert ("long_run" in check(to_block(text[: 8 * BLOCK]))) == (length == 26)


def test_bits_go_from_the_most_significant_on() -> None:
    # 1 + 24 + 1 ones one way round, 24 the other.
    joined, apart = bytes.fromhex("01ffffff80"), bytes.fromhex("80ffffff01")
    assert "long_run" in check(GOOD[:1000] + joined + GOOD[1005:])
    assert "long_run" not in check(GOOD[:1000] + apart + GOOD[1005:])


def test_a_run_across_two_blocks_is_two_runs() -> None:
    fips = Fips140()
    assert fips.test(GOOD[:-3] + b"\xff" * 3) == NONE
    assert fips.test(b"\xff" * 3 + GOOD[3:]) == NONE


# --- the continuous test, and what the stream remembers


def with_word(block: bytes, at: int, word: bytes) -> bytes:
    return block[:at] + word + block[at + 4 :]


@pytest.mark.parametrize("at", [4, 8, 624, 628, 1248, 1252, 2496])
def test_a_word_like_the_one_before_fails(at: int) -> None:
    word = GOOD[at - 4 : at]
    assert Fips140().test(with_word(GOOD, at, word)) == {"continuous_run"}
    for bit in range(32):
        unlike = (int.from_bytes(word, "big") ^ 1 << bit).to_bytes(4, "big")
        assert "continuous_run" not in Fips140().test(with_word(GOOD, at, unlike))
    assert check(with_word(GOOD, at, word)) == NONE


def test_a_repeat_off_the_words_passes() -> None:
    assert Fips140().test(with_word(GOOD, 10, GOOD[6:10])) == NONE


def test_two_repeats_in_a_block_are_one_failure() -> None:
    fips = Fips140()
    fips.test(with_word(with_word(GOOD, 8, GOOD[4:8]), 108, GOOD[104:108]))
    assert fips.failures["continuous_run"] == 1


@pytest.mark.parametrize("word", [b"\0\0\0\0", b"\0\0\0\1", b"\x80\0\0\0", b"\xff\xff\xff\xff"])
def test_the_first_word_is_compared_with_the_bootstrap_only(word: bytes) -> None:
    block = word + GOOD[4:]
    assert "continuous_run" not in Fips140().test(block)
    assert "continuous_run" not in Fips140(b"\0\0\0\2").test(block)
    assert "continuous_run" in Fips140(word).test(block)


def test_the_last_word_is_compared_with_the_next_block() -> None:
    fips = Fips140()
    assert fips.test(GOOD) == NONE
    assert fips.test(GOOD[-4:] + GOOD[4:]) == {"continuous_run"}
    assert fips.test(GOOD) == NONE


def test_what_is_counted() -> None:
    fips = Fips140()
    for block in (GOOD, bytes(BLOCK), GOOD, b"\x55" * BLOCK):
        fips.test(block)
    assert (fips.blocks, fips.failed_blocks) == (4, 2)
    assert fips.failures == {"monobit": 1, "poker": 2, "runs": 2, "long_run": 1, "continuous_run": 2}


@pytest.mark.parametrize("length", [0, 2499, 2501])
def test_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="2500 bytes"):
        check(bytes(length))
    fips = Fips140()
    with pytest.raises(ValueError, match="2500 bytes"):
        fips.test(bytes(length))
    assert fips.blocks == 0


def test_another_bootstrap_is_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes"):
        Fips140(b"abc")


# --- against rngtest. The counts were printed by that of rng-tools-debian 2.3 (its -V says 2.2) on these
# very streams: each is 4 bytes, 1000 blocks, and half a block that is not tested.

LENGTH = 4 + 1000 * BLOCK + 1234


def with_faults(clean: bytes) -> bytes:
    """Plant a run of 26 ones, or a word like the one before, at every 9973rd byte in turn."""
    faulty = bytearray(clean)
    for at in range(9973, LENGTH - 8, 2 * 9973):
        faulty[at : at + 4] = b"\x0f\xff\xff\xfc"
    for at in range(2 * 9973, LENGTH - 8, 2 * 9973):
        word = at - at % 4
        faulty[word : word + 4] = faulty[word - 4 : word]
    return bytes(faulty)


@pytest.mark.parametrize(
    ("ones_of_256", "faults", "failed_blocks", "failures"),
    [
        (128, False, 1, [1, 0, 0, 0, 0]),
        (126, False, 49, [46, 1, 4, 0, 0]),
        (130, False, 45, [44, 4, 1, 0, 0]),
        (133, False, 956, [956, 447, 124, 0, 0]),
        (128, True, 250, [1, 0, 0, 125, 125]),
    ],
)
def test_it_counts_as_rngtest_does(
    ones_of_256: int, failed_blocks: int, failures: list[int], *, faults: bool
) -> None:
    data = stream("virtrng", LENGTH, ones_of_256=ones_of_256)
    if faults:
        data = with_faults(data)
    fips = Fips140(data[:4])
    for at in range(4, LENGTH - BLOCK + 1, BLOCK):
        fips.test(data[at : at + BLOCK])
    assert (fips.blocks, fips.failed_blocks) == (1000, failed_blocks)
    assert fips.failures == dict(
        zip(["monobit", "poker", "runs", "long_run", "continuous_run"], failures, strict=True)
    )


# --- against the same tests taken bit by bit


def naive(word: bytes, block: bytes) -> frozenset[str]:
    text, failed = to_text(block), set()
    if not 9725 < text.count("1") < 10275:
        failed.add("monobit")
    counts = [block.hex().count(digit) for digit in "0123456789abcdef"]
    if not 2.16 < 16 / 5000 * sum(n * n for n in counts) - 5000 < 46.17:
        failed.add("poker")
    runs = [(bit, len(list(run))) for bit, run in groupby(text)]
    buckets = [(bit, min(length, 6)) for bit, length in runs]
    for bit in "01":
        if any(not low <= buckets.count((bit, k)) <= high for k, (low, high) in enumerate(RUNS, 1)):
            failed.add("runs")
    if max(length for _, length in runs) >= 26:
        failed.add("long_run")
    words = [word] + [block[at : at + 4] for at in range(0, BLOCK, 4)]
    if any(one == next_one for one, next_one in pairwise(words)):
        failed.add("continuous_run")
    return frozenset(failed)


splices = st.lists(
    st.tuples(
        st.integers(0, 2496),
        st.sampled_from([b"\0\0\0", b"\xff\xff\xff\xff", b"\x01\xff\xff\xff\x80", b"same" * 2]),
    ),
    max_size=4,
)


@given(
    seed=st.integers(0, 10**6),
    ones_of_256=st.sampled_from([64, 124, 126, 128, 128, 128, 130, 132]),
    splices=splices,
    repeat=st.integers(1, 3),
)
@settings(derandomize=True, max_examples=scaled(80))
def test_it_is_the_same_as_bit_by_bit(
    seed: int, ones_of_256: int, splices: list[tuple[int, bytes]], repeat: int
) -> None:
    block = stream(str(seed), BLOCK, ones_of_256=ones_of_256)
    for at, splice in splices:
        block = (block[:at] + splice + block[at + len(splice) :])[:BLOCK]
    fips, word = Fips140(b"boot"), b"boot"
    for _ in range(repeat):
        assert fips.test(block) == naive(word, block)
        word = block[-4:]


@given(st.binary(min_size=1, max_size=50))
@settings(derandomize=True, max_examples=scaled(40))
def test_patterns_are_judged_as_bit_by_bit(pattern: bytes) -> None:
    block = (pattern * BLOCK)[:BLOCK]
    assert Fips140(b"boot").test(block) == naive(b"boot", block)
