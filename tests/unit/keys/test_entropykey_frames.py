# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Entropy Key's frames: what is one, what is none, and how the next one is found."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from virtrng.keys.entropykey.frames import (
    FRAME_BYTES,
    Frame,
    FrameReader,
    FrameType,
    assemble,
    binary_frame,
    decode_sub_code,
    text_frame,
)

INFORMATION = assemble(text_frame(FrameType.INFORMATION, "T03143 V03254"), b"\1\2\3\4\5\6")
ENTROPY = assemble(binary_frame(FrameType.ENTROPY, 1556, bytes(range(32))), b"\xff" * 6)


def types(items: list[Frame | None]) -> list[FrameType | None]:
    return [None if item is None else item.type for item in items]


def test_a_text_frame() -> None:
    (frame,) = FrameReader().feed(INFORMATION)
    assert frame is not None
    assert frame.type is FrameType.INFORMATION
    assert frame.text == "T03143 V03254"
    assert frame.mac == b"\1\2\3\4\5\6"
    assert frame.covered == INFORMATION[2:54]
    assert (frame.sub_code, frame.binary) == (0, b"")


def test_a_binary_frame() -> None:
    assert len(ENTROPY) == FRAME_BYTES
    (frame,) = FrameReader().feed(ENTROPY)
    assert frame is not None
    assert frame.type is FrameType.ENTROPY
    assert (frame.sub_code, frame.binary) == (1556, bytes(range(32)))


def test_a_frame_does_not_show_what_it_carries() -> None:
    (frame,) = FrameReader().feed(ENTROPY)
    assert "x02" not in repr(frame)
    assert "AAEC" not in repr(frame)


def test_unknown_types_and_classes_are_frames() -> None:
    items = FrameReader().feed(INFORMATION.replace(b"I>", b"Z>") + INFORMATION.replace(b"I>", b"I?"))
    assert types(items) == [FrameType.UNKNOWN, FrameType.UNKNOWN]


def test_frames_come_out_however_the_bytes_arrive() -> None:
    reader = FrameReader()
    stream = (INFORMATION + ENTROPY) * 3
    items = [item for byte in stream for item in reader.feed(bytes((byte,)))]
    assert types(items) == [FrameType.INFORMATION, FrameType.ENTROPY] * 3


@pytest.mark.parametrize(
    ("at", "bad"),
    [
        (10, b"\x80"),  # outside ASCII
        (10, b"\x07"),
        (10, b"\n"),
        (60, b"-"),  # not base64, in the MAC
        (61, b"="),
        (61, b"\xff"),
    ],
)
def test_characters_that_no_frame_has(at: int, bad: bytes) -> None:
    torn = INFORMATION[:at] + bad + INFORMATION[at + 1 :]
    assert types(FrameReader().feed(torn + INFORMATION)) == [None, FrameType.INFORMATION]


@pytest.mark.parametrize("payload", [b"?A", b"A ", b"AAAAA", b"AAAA=A", b"AAAA A==", b"AA-AAA"])
def test_binary_payloads_that_are_none(payload: bytes) -> None:
    frame = assemble(b"E!" + payload.ljust(50), bytes(6))
    assert types(FrameReader().feed(frame + ENTROPY)) == [None, FrameType.ENTROPY]


def test_a_sub_code_outside_the_alphabet_is_refused() -> None:
    with pytest.raises(ValueError, match="not found"):
        decode_sub_code(b"A=")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0",
        b"*",
        b"* ",
        b"noise without a star",
        b"noise * with ** some * ",
        INFORMATION[:40],
        INFORMATION[:63],
        INFORMATION[1:],
        INFORMATION[30:],
        INFORMATION[:20] + INFORMATION[40:],
        INFORMATION[:-2] + b"\n\r",
        b"*" * 63,
    ],
)
def test_one_bit_of_garbage_is_one_bad_frame_and_the_next_frame_is_found(garbage: bytes) -> None:
    reader = FrameReader()
    assert types(reader.feed(ENTROPY + garbage)) == [FrameType.ENTROPY] + [None] * (
        len(garbage) >= FRAME_BYTES
    )
    rest = types(reader.feed(INFORMATION))
    assert rest[-1] is FrameType.INFORMATION
    assert rest[:-1] == [None] * (len(garbage) < FRAME_BYTES)


def test_garbage_on_either_side_of_a_frame_is_two_bad_frames() -> None:
    items = FrameReader().feed(b"x" + ENTROPY + b"x" + ENTROPY)
    assert types(items) == [None, FrameType.ENTROPY] * 2


def test_long_garbage_is_a_bad_frame_for_every_64_bytes_begun() -> None:
    for byte in (b"\0", b"*"):
        items = FrameReader().feed(byte * 640 + ENTROPY)
        assert types(items) == [None] * 10 + [FrameType.ENTROPY]


@settings(derandomize=True, max_examples=scaled(150))
@given(
    st.lists(
        st.one_of(st.binary(max_size=150), st.sampled_from([ENTROPY, b"* ", b"\r\n", b"* E!"])), max_size=8
    )
)
def test_nothing_whatever_makes_the_reader_raise(pieces: list[bytes]) -> None:
    reader = FrameReader()
    fed = found = 0
    for piece in pieces:
        fed += len(piece)
        found += len(reader.feed(piece))
    assert found * FRAME_BYTES <= fed + FRAME_BYTES * (len(pieces) + 1)


noise = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from(b"* \r\nE!AB"), max_size=200).map(bytes),
    st.integers(0, 63).map(lambda length: ENTROPY[:length]),
)


@settings(derandomize=True, max_examples=scaled(150))
@given(noise, st.binary(min_size=32, max_size=32), st.integers(0, 4095))
def test_the_first_whole_frame_after_noise_is_found(garbage: bytes, plain: bytes, sequence: int) -> None:
    reader = FrameReader()
    reader.feed(garbage)
    whole = assemble(binary_frame(FrameType.ENTROPY, sequence, plain), bytes(6))
    items = reader.feed(whole)
    assert items
    assert items[-1] is not None
    assert items[-1].covered == whole[2:54]
    assert base64.b64decode(whole[6:50]) == items[-1].binary
