# SPDX-License-Identifier: LGPL-2.1-or-later
"""One key's life: every rule of the table, sessions, the log, the credit."""

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from tests.unit.feeder.life_rig import NAME, Rig, biased
from virtrng.entropy.params import BLOCK_BYTES, BLOCK_TESTS, REPEAT_TESTS, STREAM_TESTS
from virtrng.feeder import life as feeder_life
from virtrng.feeder.states import (
    QUARANTINE_MAX_S,
    QUARANTINE_S,
    RATE_CLEAR,
    RATE_LIMIT,
    READMIT_BLOCKS,
    RULES,
    START_UP_BLOCKS,
    SUSPECT_BLOCKS,
    State,
)

PROBE, STARTUP, OK, SUSPECT, QUARANTINE, FAILED = State

ONE_VALUE = "one value and nothing else"

ADMITTED = "c" + "c" * START_UP_BLOCKS
BAD = ADMITTED + "abbb"  # to SUSPECT, and to QUARANTINE
BACK = "q" + "c" * (1 + READMIT_BLOCKS)
SELDOM = "bccccccccccccccccccc"  # one in twenty: never three in ten
TO_THE_LIMIT = SELDOM * 11 + "b"

# What happens; what moves the key at the end of it, from where to where, and why.
STORIES = [
    ("1", PROBE, FAILED, "one value"),
    ("c", PROBE, STARTUP, "first block"),
    ("b", PROBE, STARTUP, "first block"),
    ("a", PROBE, STARTUP, "first block"),
    ("cc1", STARTUP, FAILED, "one value"),
    ("cca", STARTUP, QUARANTINE, "repetition_count alarm"),
    ("cbcbcccb", STARTUP, QUARANTINE, "3 of the last 10"),
    (ADMITTED, STARTUP, OK, "4 clean blocks in a row"),
    ("cbcccbcccc", STARTUP, OK, "4 clean blocks in a row"),
    (ADMITTED + "2", OK, FAILED, "a short cycle"),
    (ADMITTED + "ccr", OK, FAILED, "a replay"),
    (ADMITTED + "a", OK, SUSPECT, "repetition_count alarm"),
    (ADMITTED + "bcbcbcbccb", OK, SUSPECT, "5 of the last 10"),
    (ADMITTED + TO_THE_LIMIT, OK, SUSPECT, "more than 10 per 1,000"),
    (ADMITTED + "ar", SUSPECT, FAILED, "a replay"),
    (ADMITTED + "aca", SUSPECT, QUARANTINE, "repetition_count alarm"),
    (ADMITTED + "abcbcb", SUSPECT, QUARANTINE, "3 of the last 10"),
    (ADMITTED + "a" + "c" * READMIT_BLOCKS, SUSPECT, OK, "20 clean blocks in a row"),
    (ADMITTED + TO_THE_LIMIT + SELDOM * 100, SUSPECT, QUARANTINE, "after 2,000 blocks"),
    (BAD + "c1", QUARANTINE, FAILED, "one value"),
    (BAD + "qcaqca", QUARANTINE, FAILED, "quarantine 3 within 24 h"),
    (BAD + "qc", QUARANTINE, STARTUP, "its time is over"),
    (BAD + "qb", QUARANTINE, STARTUP, "its time is over"),
    (BAD + BACK, STARTUP, OK, "20 clean blocks in a row"),
]


@pytest.mark.parametrize(
    ("script", "at", "to", "why"), STORIES, ids=[f"{at.value} {to.value} {why}" for _, at, to, why in STORIES]
)
def test_what_moves_a_key(
    monkeypatch: pytest.MonkeyPatch, script: str, at: State, to: State, why: str
) -> None:
    rig = Rig(monkeypatch)
    rig.play(script[:-1])
    so_far = len(rig.rules)
    before = rig.life.state
    rig.play(script[-1])
    assert len(rig.rules) > so_far, f"it stayed {before}"
    assert (rig.rules[-1].at, rig.rules[-1].to) == (at, to)
    assert rig.life.state is to
    assert why in str(rig.life.reason)


def test_no_rule_is_left_without_a_story(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    for script, *_ in STORIES:
        rig = Rig(monkeypatch)
        rig.play(script)
        used += rig.rules
    assert {RULES.index(one) for one in used} == set(range(len(RULES)))


# What happens, and in which state that leaves the key.
STAYS = [
    ("", PROBE),
    ("n", PROBE),
    ("ccc", STARTUP),
    ("cbcccbccc", STARTUP),
    (ADMITTED + "bcbcbccccccccccb", OK),
    (ADMITTED + SELDOM * 10, OK),
    (ADMITTED + "abccccccccccb", SUSPECT),
    (ADMITTED + "a" + "c" * (READMIT_BLOCKS - 1), SUSPECT),
    (BAD + "abbbaaabc", QUARANTINE),  # it is as bad as it was, until the time is over
    (BAD + "hq" + "c" * READMIT_BLOCKS, STARTUP),
    (BAD + BACK + BAD, QUARANTINE),
    # Three quarantines, but not within a day.
    (BAD + BACK + "h" + BAD + BACK + "h" + BAD, QUARANTINE),
    (ADMITTED + "1" + "d" + BACK[1:], FAILED),
]


@pytest.mark.parametrize(
    ("script", "state"), STAYS, ids=[f"{n} {one[1].value}" for n, one in enumerate(STAYS)]
)
def test_where_a_key_stays(script: str, state: State) -> None:
    rig = Rig()
    rig.play(script)
    assert rig.life.state is state


def test_nothing_is_used_but_in_the_state_ok() -> None:
    rig = Rig()
    for letter in f"n{ADMITTED}ccbc{TO_THE_LIMIT}cccccb" + "c" * 900 + f"a{BACK[1:]}bbb":
        block = rig.block(letter) if letter != "n" else b""
        passed = rig.take(block) if block else []
        assert [one.data for one in passed] == ([block] if rig.is_in(OK) and letter == "c" else [])


def test_a_call_that_ends_the_state_ok_returns_nothing_and_leaves_the_rest() -> None:
    rig = Rig()
    rig.play(ADMITTED)
    assert rig.take(b"".join(map(rig.block, "cca" + "c" * (READMIT_BLOCKS + 1)))) == []
    assert rig.is_in(SUSPECT)
    assert rig.life.blocks_tested == len(ADMITTED) + 3
    # What it says is seen; then it goes on where it stopped.
    assert len(rig.take(b"")) == 2
    assert rig.is_in(OK)


# --- rates and times


def test_suspicion_needs_a_rate_far_below_the_limit_to_end() -> None:
    rig = Rig()
    rig.play(ADMITTED + TO_THE_LIMIT)
    assert RATE_LIMIT < rig.life.failure_rate < RATE_LIMIT + 0.001
    blocks = 0
    while rig.is_in(SUSPECT):
        assert rig.life.failure_rate >= RATE_CLEAR or blocks < READMIT_BLOCKS
        rig.play("c")
        blocks += 1
    assert rig.is_in(OK)
    assert 600 < blocks < SUSPECT_BLOCKS


def test_quarantines_double_up_to_an_hour_until_a_day_lies_between() -> None:
    rig = Rig()
    lasted = []
    for _ in range(9):
        rig.play(BAD)
        assert rig.life.until_s is not None
        lasted.append(rig.life.until_s - rig.now_s)
        rig.play("q" + "h" + "c" * 600)
        assert rig.is_in(OK)
        assert rig.life.until_s is None
    assert lasted == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0, 3600.0]
    assert (lasted[0], lasted[-1]) == (QUARANTINE_S, QUARANTINE_MAX_S)
    assert rig.life.quarantines == 1
    rig.play("d" + BAD)
    assert rig.life.until_s == rig.now_s + QUARANTINE_S


def test_a_quarantine_is_over_not_a_moment_before_its_time() -> None:
    rig = Rig()
    rig.play(BAD)
    rig.now_s += QUARANTINE_S - 0.001
    assert rig.play("c") == [QUARANTINE]
    rig.now_s += 0.001
    assert rig.play("c") == [STARTUP]


def test_a_bad_key_is_failed_within_minutes() -> None:
    rig = Rig()
    rig.play(ADMITTED)
    while not rig.is_in(FAILED):
        rig.now_s += BLOCK_BYTES / 4000
        rig.play("b")
    assert rig.now_s - 100 < 240


# --- sessions


@pytest.mark.parametrize(
    ("script", "state"),
    [("", PROBE), ("c", PROBE), (ADMITTED, PROBE), (ADMITTED + "a", PROBE), (BAD, QUARANTINE), ("1", FAILED)],
)
def test_where_a_new_session_finds_a_key(script: str, state: State) -> None:
    rig = Rig()
    assert rig.play(script + "n")[-1] is state
    assert rig.play("ccccc")[-1] is (
        OK if script in ("", "c", ADMITTED) else STARTUP if state is PROBE else state
    )


def test_a_new_session_drops_what_was_read_in_part() -> None:
    rig = Rig()
    rig.take(rig.clean()[:1000])
    rig.life.begin()
    rig.play("n" + ADMITTED[:-1])
    block = rig.clean()
    assert [one.data for one in rig.take(block)] == [block]


def test_a_run_across_two_blocks_is_an_alarm_and_across_two_sessions_is_none() -> None:
    zeros = bytes(6)  # 48 bits each; the cutoff for 0.5 bit per bit at 2^-40 is 81
    for between, state in (("", SUSPECT), ("n", STARTUP)):
        rig = Rig()
        rig.play(ADMITTED)
        rig.take(rig.clean()[:-6] + zeros)
        rig.play(between)
        rig.take(zeros + rig.clean()[6:])
        assert rig.is_in(state)
        assert rig.life.failures["repetition_count"] == (state is SUSPECT)


def test_a_loose_contact_makes_no_suspect_clean() -> None:
    rig = Rig()
    rig.play(ADMITTED + "an" + "c" * READMIT_BLOCKS)
    assert rig.is_in(STARTUP), "one of them was the probe"
    assert rig.play("c") == [OK]


def test_a_loose_contact_makes_no_bad_rate_clean() -> None:
    rig = Rig()
    rig.play("n" + (ADMITTED + "bn") * 6)
    assert rig.life.failure_rate > RATE_CLEAR
    rig.play(ADMITTED + "c" * 50)
    assert rig.is_in(STARTUP)


def test_a_loose_contact_shortens_no_quarantine_and_forgets_none() -> None:
    rig = Rig()
    assert rig.play(BAD + "n" + "cnc" * 20)[-1] is QUARANTINE
    assert rig.play("qnc" + "nc" * 5)[-1] is STARTUP
    assert rig.life.quarantines == 1


def test_what_was_sent_in_an_earlier_session_is_a_replay() -> None:
    rig = Rig()
    assert rig.play(ADMITTED + "n" + ADMITTED + "r")[-1] is FAILED


def test_of_a_failed_key_bytes_are_counted_and_nothing_is_kept() -> None:
    rig = Rig()
    rig.take(bytes(BLOCK_BYTES) + rig.clean() * 3)
    assert rig.is_in(FAILED)
    assert rig.take(rig.clean() * 9) == []
    assert (rig.life.bytes_read, rig.life.blocks_tested) == (13 * BLOCK_BYTES, 1)
    assert not rig.life._pending


# --- what it shows


def test_counts_and_words() -> None:
    rig = Rig()
    life = rig.life
    assert set(life.failures) == {*BLOCK_TESTS, *STREAM_TESTS, *REPEAT_TESTS}
    assert not any(life.failures.values())
    assert (life.reason, life.last_fault, life.until_s, life.quarantines) == (None, None, None, 0)
    rig.play(ADMITTED + "bcb")
    assert (life.blocks_tested, life.blocks_failed, life.bytes_read) == (8, 2, 8 * BLOCK_BYTES)
    assert (life.failures["monobit"], life.failures["repetition_count"]) == (2, 0)
    assert str(life.last_fault).startswith("block 8 dropped: it failed monobit")
    assert life.reason == "4 clean blocks in a row"
    assert 0.0019 < life.failure_rate < 0.002
    rig.play("a")
    assert life.failures["repetition_count"] == 1
    assert life.reason == life.last_fault == "block 9: repetition_count alarm (cutoff 81 bits)"
    rig.play("1")
    assert life.failures["one_value"] == 1
    assert life.reason == f"block 10: {ONE_VALUE}"


def test_the_cutoff_is_that_of_the_claim() -> None:
    rig = Rig(min_entropy=0.4)
    rig.play(ADMITTED)
    rig.take(rig.clean()[:50] + bytes(11) + rig.clean()[61:])
    assert rig.is_in(OK), "88 bits and a few; 101 would be an alarm"
    rig.take(rig.clean()[:50] + bytes(13) + rig.clean()[63:])
    assert rig.life.reason == "block 7: repetition_count alarm (cutoff 101 bits)"


def test_a_proportion_is_an_alarm_too() -> None:
    rig = Rig()
    rig.play(ADMITTED)
    rig.take(biased(rig.source, 0.9))
    assert rig.is_in(SUSPECT)
    assert rig.life.reason == "block 6: adaptive_proportion alarm (cutoff 824 bits)"


def test_each_transition_is_one_line_and_nothing_else_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, feeder_life.__name__)
    rig = Rig()
    rig.play("n" + ADMITTED + "bcnc" + "cccc" + "ca" + "bcbb" + "bc" + "qca" + "c1" + "cbn")
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [text.split(" (")[0].removeprefix(f"{NAME}: ") for _, text in said] == [
        "startup, after probe: the first block of the session is in: not used",
        "ok, after startup: 4 clean blocks in a row: used from now on",
        "probe, after ok: a new session: not used",
        "startup, after probe: the first block of the session is in: not used",
        "ok, after startup: 4 clean blocks in a row: used from now on",
        "suspect, after ok: block 14: repetition_count alarm",
        "quarantine, after suspect: 3 of the last 10 blocks failed: not used for 60 s at least",
        "startup, after quarantine: its time is over: not used",
        "quarantine, after startup: block 22: repetition_count alarm",
        f"failed, after quarantine: block 24: {ONE_VALUE}: not used again until the service is restarted",
    ]
    assert [level for level, _ in said] == ["INFO"] * 5 + ["WARNING"] * 2 + ["INFO", "WARNING", "ERROR"]
    assert said[5][1] == (
        f"{NAME}: suspect, after ok: block 14: repetition_count alarm (cutoff 81 bits): not used "
        "(failure rate 2.0 per 1,000; 2 of 14 blocks failed)"
    )


# --- the credit


def test_the_claim_is_spread_over_the_bytes_and_only_falls() -> None:
    rig = Rig()
    rig.play(ADMITTED)
    last = rig.clean()
    passed = rig.take(rig.clean() + rig.clean() + last[:1000], claimed_bits=24_001)
    assert [tested.assessed_bits for tested in passed] == [10_000, 10_000]
    (third,) = rig.take(last[1000:], claimed_bits=0)
    assert third.assessed_bits == 4001


def test_no_claim_is_no_credit() -> None:
    rig = Rig()
    rig.play(ADMITTED)
    assert [tested.assessed_bits for tested in rig.take(rig.clean() + rig.clean(), claimed_bits=0)] == [0, 0]


PIECES = st.one_of(
    st.tuples(st.sampled_from("ccccccba"), st.integers(1, 2 * BLOCK_BYTES)),
    st.tuples(st.sampled_from("cccccccc12n"), st.integers(1, BLOCK_BYTES)),
    st.tuples(st.just(""), st.integers(0, 9000)),
)


@settings(derandomize=True, max_examples=scaled(80))
@given(
    st.lists(st.tuples(PIECES, st.integers(0, 8)), max_size=30),
    st.lists(st.integers(0, 4000), max_size=4),
    st.binary(max_size=80),
)
def test_whatever_comes_what_passes_was_read_and_no_bit_is_made(
    pieces: list[tuple[tuple[str, int], int]], jumps_s: list[int], oddity: bytes
) -> None:
    rig = Rig()
    stream = b"".join(rig.clean() for _ in ADMITTED)
    claimed = 4 * len(stream)
    passed = rig.take(stream)
    assert [one.data for one in passed] == [stream[-BLOCK_BYTES:]]
    for number, ((letter, size), bits_per_byte) in enumerate(pieces):
        if letter == "n":
            rig.life.begin()
            continue
        piece = ((rig.block(letter) + rig.clean()) if letter else oddity * 100)[:size]
        stream += piece
        claimed += bits_per_byte * len(piece)
        rig.now_s += jumps_s[number % len(jumps_s)] if jumps_s else 0
        passed += rig.take(piece, bits_per_byte * len(piece))
    at = 0
    for tested in passed:
        at = stream.index(tested.data, at) + len(tested.data)
        assert len(tested.data) == BLOCK_BYTES
        assert 0 <= tested.assessed_bits <= 8 * BLOCK_BYTES
    assert sum(tested.assessed_bits for tested in passed) <= claimed
    assert rig.life.bytes_read == len(stream)
