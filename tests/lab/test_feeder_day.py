# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real bits through a key's life: a day of a perfect source, which takes 250 MB of them."""

import logging
from collections import Counter

import pytest

from tests.scale import scaled
from tests.unit.feeder.life_rig import Rig
from virtrng.entropy.params import BLOCK_BYTES, REPEAT_TESTS
from virtrng.feeder.states import RATE_LIMIT, State

DAY_BLOCKS = 100_000


def test_a_perfect_source_stays_ok_the_whole_day(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rig, count = Rig(), scaled(DAY_BLOCKS)
    highest, passed, states = 0.0, 0, Counter[State]()
    for _ in range(count):
        rig.now_s += 86_400 / DAY_BLOCKS
        passed += len(rig.take(rig.source.randbytes(BLOCK_BYTES)))
        states[rig.life.state] += 1
        highest = max(highest, rig.life.failure_rate)
    assert states == {State.STARTUP: 4, State.OK: count - 4}
    assert len(caplog.records) == 2
    assert passed == count - 4 - rig.life.blocks_failed
    assert 0.5 < rig.life.blocks_failed * 1260 / count < 1.5
    assert 0.002 < highest < 0.8 * RATE_LIMIT
    assert not any(rig.life.failures[name] for name in (*REPEAT_TESTS, "repetition_count"))
