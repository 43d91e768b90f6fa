# SPDX-License-Identifier: LGPL-2.1-or-later
"""An Entropy Key that stopped itself: not a byte more, and the reason in words."""

from typing import TYPE_CHECKING

import pytest

from virtrng.errors import KeySelfStopped
from virtrng.keys.entropykey.frames import FrameType, text_frame

if TYPE_CHECKING:
    from tests.unit.keys.conftest import Rig


@pytest.mark.parametrize(
    ("badness", "words"),
    [
        ("1", "left generator is no longer random"),
        ("2", "right generator is no longer random"),
        ("3", "correlated"),
        ("4", "left generator is strongly biased"),
        ("5", "right generator is strongly biased"),
        ("6", "not documented"),
        ("7", "temperature is too low"),
        ("8", "temperature is too high"),
        ("9", "FIPS 140-2"),
        ("A", "voltage is too low"),
        ("B", "voltage is too high"),
    ],
)
def test_a_bad_badness_stops_output_at_once(rig: "Rig", badness: str, words: str) -> None:
    rig.running(320)
    rig.firmware.fail(badness)
    with pytest.raises(KeySelfStopped, match=words) as stopped:
        rig.collect(10**6)
    assert stopped.value.badness == badness
    with pytest.raises(KeySelfStopped):
        rig.key.read(1000)
    assert (rig.resets, rig.key.counters.telemetry.badness) == (1, badness)


def test_noise_in_the_same_read_as_a_bad_badness_is_not_emitted(make_rig: "type[Rig]") -> None:
    rig = make_rig(read_bytes=1 << 16)
    rig.running(320)
    rig.clock.sleep(0.63)
    rig.firmware.advance(rig.clock())
    rig.firmware.fail("3")
    rig.firmware._information(0)
    with pytest.raises(KeySelfStopped):
        rig.key.read(1000)


def test_generators_bad_waits_for_the_reason(rig: "Rig") -> None:
    rig.firmware.fail("8")
    rig.key.start()
    assert rig.key.read(100) is None
    with pytest.raises(KeySelfStopped, match="temperature is too high"):
        rig.key.read(60_000)
    assert rig.resets == 1


def test_generators_bad_without_a_reason(rig: "Rig") -> None:
    rig.firmware.fail("8")
    rig.wire.tamper = lambda frame: b"" if frame[2:4] == b"I>" else frame
    rig.key.start()
    began_s = rig.clock()
    with pytest.raises(KeySelfStopped, match="did not say why"):
        rig.key.read(60_000)
    assert rig.clock() - began_s == pytest.approx(5.0, abs=0.1)
    assert rig.resets == 1


def test_nothing_is_emitted_after_generators_bad(rig: "Rig") -> None:
    rig.running(320)
    rig.firmware._send(text_frame(FrameType.GENERATORS_BAD, "-"))
    in_flight = 78 - 10  # of the block that came before
    rig.collect(in_flight * 32)
    with pytest.raises(KeySelfStopped, match="did not say why"):
        rig.key.read(60_000)


def test_start_forgets_what_the_key_said_before(rig: "Rig") -> None:
    rig.firmware.fail("8")
    rig.key.start()
    with pytest.raises(KeySelfStopped):
        rig.key.read(60_000)
    rig.firmware.fail("0")
    rig.running(320)
    assert rig.key.counters.telemetry.badness == "0"
