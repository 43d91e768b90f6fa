# SPDX-License-Identifier: LGPL-2.1-or-later
"""The conditioner: its hash, its credit, and the formula behind the 320 bits."""

import hashlib
from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from virtrng.entropy.conditioner import Conditioner, Seed

# FIPS 180-2, appendix B.2: a message of 56 bytes, and its SHA-256.
MESSAGE = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"
DIGEST = bytes.fromhex("248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1")


def test_known_answer() -> None:
    conditioner = Conditioner()
    conditioner.add(MESSAGE, 320)
    assert conditioner.take() == Seed(DIGEST, 256)


def test_pieces_are_hashed_as_one() -> None:
    conditioner = Conditioner()
    for at in range(0, len(MESSAGE), 8):
        conditioner.add(MESSAGE[at : at + 8], 64)
    assert conditioner.assessed_bits == 448
    assert conditioner.take().data == DIGEST


def test_320_bits_are_enough_and_319_are_not() -> None:
    conditioner = Conditioner()
    conditioner.add(bytes(100), 319)
    assert not conditioner.ready
    with pytest.raises(ValueError, match="319 of 320"):
        conditioner.take()
    with pytest.raises(ValueError, match="319 of 320"):
        conditioner.take(credited=False)
    conditioner.add(b"\1", 1)  # what was refused a moment ago is still there
    assert conditioner.ready
    assert conditioner.take().data == hashlib.sha256(bytes(100) + b"\1").digest()


def test_more_than_enough_is_worth_no_more() -> None:
    conditioner = Conditioner()
    conditioner.add(bytes(4096), 8 * 4096)
    assert conditioner.take().entropy_bits == 256
    assert (conditioner.assessed_bits, conditioner.ready) == (0, False)


def test_each_seed_starts_anew() -> None:
    conditioner = Conditioner()
    for _ in range(2):
        conditioner.add(MESSAGE, 320)
        assert conditioner.take().data == DIGEST


def test_simulated_noise_makes_a_seed_of_no_credit() -> None:
    conditioner = Conditioner()
    conditioner.add(MESSAGE, 448)
    assert conditioner.take(credited=False) == Seed(DIGEST, 0)


def test_discarded_noise_leaves_no_trace() -> None:
    conditioner = Conditioner()
    conditioner.add(b"suspect" * 10, 300)
    conditioner.discard()
    assert conditioner.assessed_bits == 0
    conditioner.add(MESSAGE, 320)
    assert conditioner.take().data == DIGEST


@pytest.mark.parametrize("assessed_bits", [-1, 33])
def test_an_impossible_assessment_gathers_nothing(assessed_bits: int) -> None:
    conditioner = Conditioner()
    with pytest.raises(ValueError, match="4 bytes were assessed"):
        conditioner.add(b"evil", assessed_bits)
    conditioner.add(MESSAGE, 320)
    assert conditioner.take().data == DIGEST


@given(st.lists(st.binary(max_size=64).flatmap(lambda b: st.tuples(st.just(b), st.integers(0, 8 * len(b))))))
@settings(derandomize=True, max_examples=scaled(100))
def test_every_byte_counts_and_no_bit_counts_twice(pieces: list[tuple[bytes, int]]) -> None:
    conditioner, gathered, assessed_bits = Conditioner(), b"", 0
    for piece, bits in pieces:
        conditioner.add(piece, bits)
        gathered, assessed_bits = gathered + piece, assessed_bits + bits
        assert conditioner.assessed_bits == assessed_bits
        assert conditioner.ready == (assessed_bits >= 320)
        if conditioner.ready:
            assert conditioner.take() == Seed(hashlib.sha256(gathered).digest(), 256)
            gathered, assessed_bits = b"", 0


def test_a_seed_does_not_show_its_bytes() -> None:
    assert repr(Seed(DIGEST, 256)) == "Seed(entropy_bits=256)"


@pytest.mark.parametrize(("length", "credit"), [(31, 0), (33, 0), (32, 257), (32, -1)])
def test_an_impossible_seed_is_refused(length: int, credit: int) -> None:
    with pytest.raises(ValueError, match="a seed"):
        Seed(bytes(length), credit)


# --- SP 800-90B, 3.1.5.1.2, the output entropy of a vetted function. The product only uses its consequence,
# so that the formula lives here.


def missing_bits(input_bits: int, output_bits: int, narrowest_bits: int, assessed_bits: int) -> Decimal:
    """Return by how much the output entropy falls short of the output's length, in bits."""
    with localcontext() as context:
        context.prec = 800  # 2^-2048 beside 1
        two, ln2 = Decimal(2), Decimal(2).ln()
        high = two**-assessed_bits
        low = (1 - high) / (two**input_bits - 1)
        n = min(output_bits, narrowest_bits)
        inputs = two ** (input_bits - n)
        psi = inputs * low + high
        omega = (inputs + (2 * n * inputs * ln2).sqrt()) * low
        return output_bits + max(psi, omega).ln() / ln2


def log2(number: Decimal) -> float:
    return float(number.ln() / Decimal(2).ln())


def test_output_entropy_as_nists_tool_has_it() -> None:
    assert float(256 - missing_bits(512, 256, 256, 256)) == pytest.approx(255.000, abs=5e-4)
    assert log2(missing_bits(512, 256, 256, 320)) == pytest.approx(-63.5, abs=0.05)
    assert float(512 - missing_bits(512, 512, 512, 480)) == pytest.approx(479.9999999997, abs=1e-10)
    assert log2(missing_bits(2048, 512, 512, 640)) == pytest.approx(-127, abs=0.6)


@pytest.mark.parametrize("input_bytes", [80, 320, 2500])
def test_320_bits_make_a_full_seed_whatever_their_density(input_bytes: int) -> None:
    # 0.5, 0.125 and 0.016 bits per bit.
    assert missing_bits(8 * input_bytes, 256, 256, 320) < Decimal(2) ** -63
