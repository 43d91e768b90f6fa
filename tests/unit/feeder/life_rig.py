# SPDX-License-Identifier: LGPL-2.1-or-later
"""A key's life, fed by a script of letters: no block comes twice but on purpose."""

import random

import pytest

from virtrng.entropy.fips140 import check
from virtrng.entropy.params import BLOCK_BYTES
from virtrng.feeder import life as feeder_life
from virtrng.feeder import states
from virtrng.feeder.life import KeyLife, Tested
from virtrng.feeder.states import DAY_S, Rule, State
from virtrng.keys.base import Noise

NAME = "entropykey:serial=x"
BIT_DIGITS = 16


def biased(source: random.Random, ones: float, size: int = BLOCK_BYTES) -> bytes:
    """Return noise in which a bit is one with the chance `ones`, kept to 16 binary digits."""
    digits, noise = round(ones * (1 << BIT_DIGITS)), 0
    for digit in range(BIT_DIGITS):
        draw = source.getrandbits(8 * size)
        noise = draw | noise if digits >> digit & 1 else draw & noise
    return noise.to_bytes(size, "big")


class Rig:
    """A life, its noise, a clock that is set by hand, and the rules that moved it.

    The letters: `c` a clean block, `b` one that FIPS 140-2 refuses, `a` one that raises an alarm, `1` one of
    one value, `2` a cycle, `r` the first block once more; `n` a new session, `q` the time until a
    quarantine ends, `h` half a day and a bit, `d` a whole day.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch | None = None, min_entropy: float = 0.5) -> None:
        self.now_s = 100.0
        self.life = KeyLife(NAME, min_entropy, lambda: self.now_s)
        self.source = random.Random(7)
        self.first = b""
        self.rules: list[Rule] = []
        if monkeypatch:
            monkeypatch.setattr(feeder_life, "rule", self._rule)

    def _rule(self, state: State, evidence: states.Evidence) -> Rule | None:
        found = states.rule(state, evidence)
        if found:
            self.rules.append(found)
        return found

    def is_in(self, state: State) -> bool:
        return self.life.state is state

    def take(self, data: bytes, claimed_bits: int | None = None) -> list[Tested]:
        bits = 4 * len(data) if claimed_bits is None else claimed_bits
        return self.life.take(Noise(NAME, data, bits))

    def clean(self) -> bytes:
        while check(block := self.source.randbytes(BLOCK_BYTES)):
            pass
        self.first = self.first or block
        return block

    def block(self, letter: str) -> bytes:
        match letter:
            case "c":
                return self.clean()
            case "b":  # a bit is one 9 times in 16: no more than that is an alarm
                return biased(self.source, 9 / 16)
            case "a":
                return self.clean()[:1100] + bytes(60) + self.clean()[1160:]
            case "1":
                return bytes(BLOCK_BYTES)
            case "2":
                return self.clean()[:50] * 50
            case _:
                assert letter == "r"
                return self.first

    def play(self, script: str) -> list[State]:
        """Do what the letters say; return in which state that ends, one each."""
        return [self._play(letter) for letter in script if letter != " "]

    def _play(self, letter: str) -> State:
        match letter:
            case "n":
                self.life.begin()
            case "q":
                assert self.life.until_s is not None
                self.now_s = self.life.until_s
            case "h":
                self.now_s += DAY_S / 2 + 1
            case "d":
                self.now_s += DAY_S
            case _:
                self.take(self.block(letter))
        return self.life.state
