# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pairing, as the simulated key does its part: the commands M and L."""

import base64

import pytest

from virtrng.errors import WrongLongTermKey
from virtrng.keys.entropykey import EntropyKey, pairing
from virtrng.sim.entropykey import SimulatedEntropyKey, SimulatedTransport, master_key_card

SERIAL = "NwBvBlg3OTBJORFD"
MASTER_KEY = bytes(range(32))
OLD_LONG_TERM_KEY = bytes(32)
# The exchange of the vectors.
M = b"MTa2VVJma"
L = b"LoKGio6Slpqeoqaqr."
K = b"KAAAAALCxsrO0tba3."
UNLOCKED = b"* M>Long-term rekey unlocked                          vrHSYIoF\r\n"
ANSWER = b"* L!MAQEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=    CnUSZ4vh\r\n"
LOCKED_OUT = b"* l>Long-term rekey locked-out                        m/wvdw2F\r\n"
MISMATCH = b"* l>Nonce MAC does not match                          6l+FxwYn\r\n"
LONG_TERM_KEY = bytes.fromhex("0b5941a541f7e976311d1e10570f1bd9357e6da48c2c8ad7e8945b329820e978")


class Bench:
    """A key that was just switched on, and what it was told to remember."""

    def __init__(self, master_key: bytes | None = MASTER_KEY) -> None:
        self.remembered: list[bytes] = []
        self.key = SimulatedEntropyKey(
            long_term_key=OLD_LONG_TERM_KEY,
            now_s=0.0,
            serial=SERIAL,
            device_entropy=lambda size: bytes(range(0x40, 0x40 + size)),
            master_key=master_key,
            remember=self.remembered.append,
        )
        self.key.take(64)

    def say(self, *packets: bytes) -> list[bytes]:
        """Return the frames that answer these packets."""
        for packet in packets:
            self.key.receive(packet)
        answer = self.key.take(1 << 20)
        return [answer[at : at + 64] for at in range(0, len(answer), 64)]


def test_the_exchange_of_the_vectors() -> None:
    bench = Bench()
    assert bench.say(M) == [UNLOCKED]
    assert bench.remembered == []
    assert bench.say(L) == [ANSWER]
    assert bench.remembered == [LONG_TERM_KEY]


@pytest.mark.parametrize("packets", [[M + L], [bytes((byte,)) for byte in M + L], [M.lower()[:1] + M[1:], L]])
def test_commands_may_come_in_any_pieces(packets: list[bytes]) -> None:
    assert Bench().say(*packets) == [UNLOCKED, ANSWER]


def test_without_m_it_is_locked_out() -> None:
    bench = Bench()
    assert bench.say(L) == [LOCKED_OUT]
    assert bench.remembered == []


@pytest.mark.parametrize("packets", [[M.swapcase(), L], [M, L.replace(b"o", b"p")]], ids=["MAC", "nonce"])
def test_a_mac_of_something_else_is_no_use(packets: list[bytes]) -> None:
    bench = Bench()
    assert bench.say(b"M" + packets[0][1:], packets[1]) == [UNLOCKED, MISMATCH]
    assert bench.remembered == []


def test_another_master_key_is_no_use() -> None:
    for other in (bytes(32), None):
        bench = Bench(other)
        assert bench.say(M, L) == [UNLOCKED, MISMATCH]


@pytest.mark.parametrize("first", [M[:1] + b"AAAAAAAA" + L, M + L], ids=["refused", "done"])
def test_each_l_wants_an_m_of_its_own(first: bytes) -> None:
    bench = Bench()
    bench.say(first)
    assert bench.say(L) == [LOCKED_OUT]


def test_a_reset_forgets_m() -> None:
    bench = Bench()
    bench.say(M, b"\x03")
    assert bench.say(L) == [LOCKED_OUT]


def test_the_last_m_counts() -> None:
    assert Bench().say(b"MAAAAAAAA", M, L) == [UNLOCKED, UNLOCKED, ANSWER]


def test_a_failed_key_is_not_paired() -> None:
    bench = Bench()
    bench.key.fail("1")
    answers = bench.say(M, L)
    assert [frame[2:4] for frame in answers] == [b"M>", b"B>"]
    assert bench.remembered == []


def test_a_session_goes_on_under_its_own_key_and_the_next_is_of_the_new_one() -> None:
    bench = Bench()
    bench.say(K)
    unlocked, answer = bench.say(M, L)
    assert (unlocked[:54], answer[:54]) == (UNLOCKED[:54], ANSWER[:54])
    assert unlocked[54:] != UNLOCKED[54:], "authenticated by the session"
    bench.key.advance(bench.key.next_due_s)
    assert bench.say()[1][2:6] == b"E!AA"


@pytest.mark.parametrize("long_term_key", [LONG_TERM_KEY, OLD_LONG_TERM_KEY], ids=["new", "old"])
def test_a_driver_needs_the_new_key(long_term_key: bytes) -> None:
    bench = Bench()
    bench.say(M, L)
    now_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    transport = SimulatedTransport(bench.key, clock=lambda: now_s, sleep=sleep)
    driver = EntropyKey(transport, lambda _: long_term_key, min_entropy=0.5, clock=lambda: now_s)
    driver.start()
    if long_term_key == LONG_TERM_KEY:
        assert driver.read(10_000) is not None
    else:
        with pytest.raises(WrongLongTermKey):
            driver.read(10_000)


def test_the_card_is_what_ekey_setkey_and_we_read() -> None:
    assert master_key_card(MASTER_KEY) == "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9Q"
    assert pairing.master_key(master_key_card(MASTER_KEY)) == MASTER_KEY


def test_the_vectors_are_those_of_the_protocol() -> None:
    nonce = bytes(range(0xA0, 0xAC))
    serial = base64.b64decode(SERIAL)
    assert b"M" + base64.b64encode(pairing.nonce_mac(serial, MASTER_KEY, nonce)) == M
    assert pairing.long_term_key(serial, MASTER_KEY, nonce, bytes(range(0x40, 0x60))) == LONG_TERM_KEY
