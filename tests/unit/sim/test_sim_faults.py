# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each fault of the simulated key, and the driver against it: never one byte that was not encrypted."""

import base64
import re
from collections.abc import Sequence
from contextlib import suppress

import pytest

from tests.scale import scaled
from virtrng.errors import KeyFault, KeyLost, KeySelfStopped, KeySilent, KeyTrouble, WrongLongTermKey
from virtrng.keys.entropykey import EntropyKey
from virtrng.sim.entropykey import SERIAL, SimulatedTransport, seeded_noise
from virtrng.sim.faults import BADNESS, FAULTS, STALL_S, SYNTAX, Fault, FaultyEntropyKey, fault

LONG_TERM_KEY = bytes(range(100, 132))
PIECE_BYTES = 32


class Rig:
    """The driver and a key with these faults, on one clock; `encrypted` is all that the key encrypted."""

    def __init__(self, *faults: str, seed: str = "a seed") -> None:
        self.now_s = 1000.0
        self.encrypted: list[bytes] = []
        self.emitted: list[bytes] = []
        self._noise = seeded_noise(bytes(32))
        self.firmware = FaultyEntropyKey(
            [fault(text) for text in faults],
            seed=seed,
            long_term_key=LONG_TERM_KEY,
            now_s=self.now_s,
            noise=self._encrypt,
            device_entropy=seeded_noise(bytes(31) + b"\1"),
        )
        transport = SimulatedTransport(self.firmware, clock=self.clock, sleep=self._sleep)
        self.driver = EntropyKey(
            transport, lambda _: LONG_TERM_KEY, min_entropy=0.5, serial=SERIAL, clock=self.clock,
            random_bytes=bytes,
        )  # fmt: skip

    def clock(self) -> float:
        return self.now_s

    def _sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds

    def _encrypt(self, size: int) -> bytes:
        self.encrypted.append(self._noise(size))
        return self.encrypted[-1]

    def run(self, seconds: float) -> "Rig":
        """Start, and read for so long; raises what the driver does."""
        until_s = self.now_s + seconds
        self.driver.start()
        while self.now_s < until_s:
            if noise := self.driver.read(1000):
                data = noise.data
                self.emitted += [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
        return self

    def judge(self) -> None:
        """Fail if anything was emitted that was not encrypted, or twice, or out of order."""
        encrypted = iter(self.encrypted)
        assert all(piece in encrypted for piece in self.emitted)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Frames lost up to the last that was emitted; bad ones; resets after that of start()."""
        last = self.encrypted.index(self.emitted[-1])
        counters = self.driver.counters
        return last + 1 - len(self.emitted), counters.frames_bad, counters.resets - 1


def stream(faults: Sequence[str], seed: str = "a seed", until_s: float = 10.0) -> bytes:
    """Return all that such a key, asked for a session at once, sends until then."""
    key = FaultyEntropyKey(
        [fault(text) for text in faults], seed=seed, long_term_key=LONG_TERM_KEY, now_s=0.0,
        noise=seeded_noise(bytes(32)), device_entropy=bytes,
    )  # fmt: skip
    key.receive(b"KAAAAALCxsrO0tba3.")
    sent = key.take(1 << 20)
    while key.next_due_s <= until_s:
        key.advance(key.next_due_s)
        sent += key.take(1 << 20)
    return sent


# --- once, at a time


@pytest.mark.parametrize(
    ("name", "counts"),
    [("wrong-mac", (1, 1, 0)), ("truncate", (1, 1, 0)), ("duplicate", (0, 1, 0)), ("drop", (1, 0, 0)),
     ("reorder", (1, 1, 0))],
)  # fmt: skip
def test_what_happens_to_one_frame_costs_no_more_than_it(name: str, counts: tuple[int, int, int]) -> None:
    rig = Rig(f"{name}@2").run(6)
    rig.judge()
    assert rig.counts == counts
    assert len(rig.emitted) > 500


def test_noise_costs_no_frame() -> None:
    rig = Rig("noise@2").run(6)
    rig.judge()
    lost, bad, resets = rig.counts
    assert (lost, resets) == (0, 0)
    assert 1 <= bad <= 4


def test_two_at_one_time_hit_two_frames() -> None:
    rig = Rig("drop@2", "drop@2", "wrong-mac@2").run(6)
    rig.judge()
    # The first frame has both, a wrong MAC and no way to the host.
    assert rig.counts == (2, 0, 0)


def test_a_stall_costs_one_reset_and_what_was_kept_comes_late() -> None:
    rig = Rig("stall@2").run(10)
    rig.judge()
    lost, bad, resets = rig.counts
    assert (bad, resets, rig.driver.counters.sessions) == (0, 1, 2)
    assert 0 < lost <= 2 * 78
    whole, late = stream([]), stream(["stall@2"])
    assert whole.startswith(late)
    assert len(whole) - len(late) <= (STALL_S + 1.0) * 8192
    assert not stream(["stall@2"], until_s=4.99).removeprefix(stream([], until_s=1.99))


def test_silence_is_reported() -> None:
    rig = Rig("silence@2")
    with pytest.raises(KeySilent):
        rig.run(60)
    rig.judge()
    assert rig.counts == (0, 0, 5)
    rig.firmware.receive(b"\x03")
    assert rig.firmware.take(64) == b""


def test_an_unplugged_key_is_lost() -> None:
    rig = Rig("unplug@2")
    with pytest.raises(KeyLost):
        rig.run(60)
    rig.judge()
    assert rig.now_s == 1002.0
    assert rig.firmware.unplugged
    rig.firmware.receive(b"\x03")
    rig.firmware.advance(2000.0)
    assert rig.firmware.take(64) == b""


@pytest.mark.parametrize("letter", BADNESS)
def test_a_key_that_stops_itself_says_why(letter: str) -> None:
    rig = Rig(f"badness-{letter}@2")
    with pytest.raises(KeySelfStopped) as caught:
        rig.run(60)
    rig.judge()
    assert caught.value.badness == letter
    assert FAULTS[f"badness-{letter}"].endswith(caught.value.meaning)
    assert rig.now_s < 1003.0


def test_bad_generators() -> None:
    rig = Rig("bad-generators")
    with pytest.raises(KeySelfStopped):
        rig.run(60)
    assert (rig.emitted, rig.encrypted) == ([], [])


def test_bad_generators_in_mid_session_are_told_at_its_end() -> None:
    rig = Rig("bad-generators@2")
    with pytest.raises(KeySelfStopped):
        rig.run(60)
    assert rig.emitted == rig.encrypted
    assert len(rig.emitted) == 4096


def test_a_wrong_nonce_length() -> None:
    rig = Rig("wrong-nonce-length")
    with pytest.raises(KeyFault, match="5 resets in a row brought no noise"):
        rig.run(60)
    assert rig.emitted == []


@pytest.mark.parametrize(("length", "told"), [(0, b"BA"), (12, b"NA"), (4095, b"+/")])
def test_a_wrong_nonce_length_is_a_length_all_the_same(length: int, told: bytes) -> None:
    key = FaultyEntropyKey([Fault("wrong-nonce-length")], seed="", long_term_key=LONG_TERM_KEY, now_s=0.0)
    key.take(64)
    key.receive(b"K" + base64.b64encode(bytes(length)) + b".")
    assert key.take(64)[2:6] == b"K!" + told


def test_another_serial() -> None:
    rig = Rig("wrong-serial")
    with pytest.raises(KeyFault, match=r"reports the serial .* instead of SIMULATED\+KEY/01"):
        rig.run(60)
    assert rig.emitted == []


def test_another_serial_at_the_next_reset() -> None:
    rig = Rig("wrong-serial@1", "stall@2")
    with pytest.raises(KeyFault, match="reports the serial"):
        rig.run(60)
    rig.judge()


def test_a_slow_drip_is_no_silence() -> None:
    rig = Rig("slow-drip@2").run(30)
    rig.judge()
    assert rig.counts == (0, 0, 0)
    before = len(Rig().run(2).emitted)
    # At the end of a block of 0.62 s each: one every 1.6 s is one every 1.86 s.
    assert before + 12 <= len(rig.emitted) <= before + 16


def test_a_garbage_storm_is_no_noise_and_ends_in_silence() -> None:
    rig = Rig("garbage-storm@2")
    with pytest.raises(KeySilent):
        rig.run(60)
    rig.judge()
    assert rig.driver.counters.frames_bad >= 8
    assert rig.driver.counters.resets == 6


def test_after_a_garbage_storm_it_goes_on() -> None:
    rig = Rig("garbage-storm@2", "recover@5").run(15)
    rig.judge()
    assert len(rig.emitted) > 1000


def test_silence_that_ends_costs_no_more_than_itself() -> None:
    rig = Rig("silence@2", "recover@5").run(15)
    rig.judge()
    assert len(rig.emitted) > 1000


def test_without_a_time_it_is_the_first_frame() -> None:
    whole, hit = stream([]), stream(["wrong-mac"])
    assert [at for at, (one, other) in enumerate(zip(whole, hit, strict=True)) if one != other] == [54]


def test_faults_come_in_the_order_of_their_times() -> None:
    key = FaultyEntropyKey(
        [Fault("unplug", 3.0), Fault("badness-8", 1.0)], seed="", long_term_key=LONG_TERM_KEY, now_s=0.0
    )
    key.take(1000)
    assert key.next_due_s < 1.0
    key.advance(2.0)
    assert key.take(1000)[53:54] == b"0"
    key.advance(2.99)
    assert key.next_due_s == 3.0
    assert not key.unplugged
    key.advance(100.0)
    assert key.unplugged


# --- by chance

FRAME_FAULTS = ("wrong-mac", "truncate", "duplicate", "drop", "noise", "reorder")


@pytest.mark.parametrize("name", FRAME_FAULTS)
def test_by_chance_a_driver_finds_its_way(name: str) -> None:
    rig = Rig(f"{name}@3%").run(15)
    rig.judge()
    lost, bad, _resets = rig.counts
    assert len(rig.emitted) > 1000
    assert lost + bad > 10


@pytest.mark.parametrize("seed", [str(number) for number in range(1, scaled(3) + 1)])
def test_all_of_them_at_once(seed: str) -> None:
    rig = Rig(*(f"{name}@2%" for name in FRAME_FAULTS), "stall@0.1%", "wrong-nonce-length@20%", seed=seed)
    with suppress(KeyFault, KeySilent, WrongLongTermKey):
        rig.run(20)
    rig.judge()
    assert rig.emitted


@pytest.mark.parametrize("name", ["stall", "silence", "unplug", "badness-9"])
def test_conditions_begin_by_chance(name: str) -> None:
    rig = Rig(f"{name}@0.2%")
    if name == "stall":
        rig.run(30)
        assert rig.counts[2] >= 1
    else:
        with pytest.raises(KeyTrouble):
            rig.run(60)
    rig.judge()
    assert rig.emitted


@pytest.mark.parametrize("name", ["bad-generators", "wrong-nonce-length", "wrong-serial"])
def test_answers_are_wrong_by_chance_each_for_itself(name: str) -> None:
    answers = set()
    key = FaultyEntropyKey([fault(f"{name}@50%")], seed="s", long_term_key=LONG_TERM_KEY, now_s=0.0)
    for _ in range(20):
        key.receive(b"\x03KAAAA.")
        sent = key.take(1 << 20)
        answers.add((sent[-128:-60], sent[-62:-58]) if name == "wrong-serial" else sent[-62:-58])
    assert len(answers) == 2


def test_a_hundred_percent_is_always() -> None:
    assert stream(["drop@100%"]) == b""
    assert stream(["drop@0.0001%"]) == stream([])


# --- the seed


def test_chance_repeats_with_its_seed_and_is_each_faults_own() -> None:
    faults = ["wrong-mac@5%", "noise@5%"]
    assert stream(faults) == stream(faults) != stream(faults, "another seed")
    assert hit(["wrong-mac@5%"])
    assert hit(["wrong-mac@5%", "silence@9", "reorder@0.0001%"], until_s=8.0) == hit(
        ["wrong-mac@5%"], until_s=8.0
    )


def hit(faults: Sequence[str], until_s: float = 10.0) -> list[int]:
    """Return which frames of the stream are not as they would be without these faults."""
    whole, faulty = stream([], until_s=until_s), stream(faults, until_s=until_s)
    return [at for at in range(0, len(whole), 64) if whole[at : at + 64] != faulty[at : at + 64]]


def test_without_faults_it_is_the_key_it_is() -> None:
    rig = Rig().run(6)
    assert rig.emitted == rig.encrypted[: len(rig.emitted)]
    assert rig.counts == (0, 0, 0)


# --- what may be asked for


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("drop", Fault("drop", 0.0)),
        ("drop@0", Fault("drop", 0.0)),
        ("stall@2.5", Fault("stall", 2.5)),
        ("badness-A@100", Fault("badness-A", 100.0)),
        ("noise@1%", Fault("noise", chance=0.01)),
        ("noise@0.5%", Fault("noise", chance=0.005)),
        ("unplug@100%", Fault("unplug", chance=1.0)),
    ],
)
def test_the_syntax(text: str, meant: Fault) -> None:
    assert fault(text) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no fault is called ''; there are: wrong-mac, "),
        ("nonsense@3", "no fault is called 'nonsense'; there are: "),
        ("badness-6", "no fault is called 'badness-6'"),
        ("badness", "no fault is called 'badness'; there are: "),
        ("drop@", "'' in 'drop@' is neither a number of seconds nor of percent, as 2.5 or 1%"),
        ("drop@soon", "'soon' in 'drop@soon' is neither"),
        ("drop@-1", "'-1' in 'drop@-1' is neither"),
        ("drop@1e3", "is neither"),
        ("drop@nan", "is neither"),
        ("drop@\u0663", "is neither"),
        ("drop@1@2", "is neither"),
        ("drop@%", "is neither"),
        ("drop@1%%", "is neither"),
        ("drop@0%", "'0%' in 'drop@0%' is no chance: it must be more than 0% and at most 100%"),
        ("drop@100.1%", "is no chance"),
    ],
)
def test_what_is_not_the_syntax_is_said_in_words(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        fault(text)


def test_the_table_names_each_fault_of_the_checklist_with_a_line() -> None:
    wanted = {"wrong-mac", "wrong-serial", "drop", "duplicate", "reorder", "truncate", "noise", "silence",
              "stall", "bad-generators", "wrong-nonce-length", "unplug"}  # fmt: skip
    wanted |= {"stuck", "biased-51", "biased-52", "biased-60", "drift", "short-cycle", "long-cycle", "replay",
               "half-dead", "slow-drip", "garbage-storm", "recover"}  # fmt: skip
    assert FAULTS.keys() == wanted | {f"badness-{letter}" for letter in "12345789AB"}
    assert all(help_ and len(help_) <= 80 and "\n" not in help_ for help_ in FAULTS.values())
    assert all(form in SYNTAX for form in ("NAME", "NAME@SECONDS", "NAME@PERCENT%"))
