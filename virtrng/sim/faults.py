# SPDX-License-Identifier: LGPL-2.1-or-later
"""A simulated Entropy Key that misbehaves as it is told to.

What happens to frames on their way (a wrong MAC, a lost frame, noise) is done
to them as they leave; what only firmware can say (B> for K!, another serial) is
said by the firmware itself, and authenticated as all the rest; noise that went
bad comes from the generator (noise.py). Which frames are hit is determined by
the seed, given the same commands at the same times.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypedDict, Unpack

from virtrng.keys.entropykey.frames import SUB_CODE_MAX, FrameType, binary_frame
from virtrng.keys.entropykey.session import SECRET_BYTES, ZERO_KEY, Session, urandom
from virtrng.keys.entropykey.telemetry import meaning
from virtrng.sim.entropykey import SimulatedEntropyKey, derived, seeded_noise
from virtrng.sim.noise import FAILURES, Generator

# Longer than the 2 s that a host waits for a good frame.
STALL_S = 3.0
NOISE_BYTES_MAX = 256
# One frame every 1.6 s, so that the host hears of it before its patience ends.
DRIP_S = 1.6
# With each block: a full buffer, about twice what the key has to say otherwise.
STORM_BYTES = 10_000

BADNESS = "12345789AB"  # those that are documented: control.lua of ekeyd 1.1.5

_MAC_AT = 54
# What happens to one frame; done in this order where several meet.
_CHANGES = {
    "wrong-mac": "a frame has a wrong MAC",
    "truncate": "the end of a frame is missing",
    "duplicate": "a frame comes twice",
    "drop": "a frame does not come",
    "noise": f"up to {NOISE_BYTES_MAX} random bytes come before a frame",
    "reorder": "a frame comes after the one that follows it",
}
# What it answers from then on; by chance, each such answer for itself.
_ANSWERS = {
    "bad-generators": "B> is the answer to K, and to L, from then on",
    "wrong-nonce-length": "K! and L! tell a wrong number of nonce bytes, from then on",
    "wrong-serial": "S! names another key, from then on",
}
_CONDITIONS = {
    "slow-drip": f"of its noise {32 / DRIP_S:.0f} bytes a second come, from then on",
    "garbage-storm": "random bytes come and no frames, from then on",
    "stall": f"nothing comes for {STALL_S:g} s; what it had to say then comes late",
    "silence": "nothing comes any more, whatever is sent to it",
    "unplug": "it is unplugged, which ends 'virtrng simulate'",
    "recover": "its noise, its pace and its frames are good again, its silence ends",
    **{f"badness-{letter}": f"it stops itself, since {meaning(letter)}" for letter in BADNESS},
}

FAULTS = _CHANGES | _ANSWERS | FAILURES | _CONDITIONS
SYNTAX = """\
NAME            happens at the start,
NAME@SECONDS    so many seconds after it,
NAME@PERCENT%   by chance: with so many percent at each frame that it can happen to"""

_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `at_s` seconds after the key is switched on, or with a `chance` (0 to 1) at each frame."""

    name: str
    at_s: float = 0.0
    chance: float | None = None


def fault(text: str) -> Fault:
    """Return the fault that NAME, NAME@SECONDS or NAME@PERCENT% asks for; raises ValueError, in words."""
    name, at, when = text.partition("@")
    if name not in FAULTS:
        raise ValueError(f"no fault is called '{name}'; there are: {', '.join(FAULTS)}")
    if not at:
        return Fault(name)
    number = when.removesuffix("%")
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"'{when}' in '{text}' is neither a number of seconds nor of percent, as 2.5 or 1%")
    if number == when:
        return Fault(name, at_s=float(number))
    if not 0 < float(number) <= 100:
        raise ValueError(f"'{when}' in '{text}' is no chance: it must be more than 0% and at most 100%")
    return Fault(name, chance=float(number) / 100)


class FirmwareOptions(TypedDict, total=False):
    """What SimulatedEntropyKey takes beside a long-term key and a time."""

    serial: str
    rate_bytes_per_s: float
    noise: Callable[[int], bytes] | None
    device_entropy: Callable[[int], bytes]
    master_key: bytes | None
    remember: Callable[[bytes], object]


class FaultyEntropyKey(SimulatedEntropyKey):
    """The firmware of a key that has these faults; `seed` decides whatever is left to chance."""

    def __init__(
        self,
        faults: Iterable[Fault],
        *,
        seed: str,
        long_term_key: bytes,
        now_s: float,
        **options: Unpack[FirmwareOptions],
    ) -> None:
        faults = tuple(faults)
        self._now_s = now_s
        self._to_come = sorted((now_s + one.at_s, one.name) for one in faults if one.chance is None)
        self._chances = [
            (one.name, one.chance, seeded_noise(derived(seed, f"fault {number} {one.name}")))
            for number, one in enumerate(faults)
            if one.chance is not None
        ]
        self._random = seeded_noise(derived(seed, "what faults put on the wire"))
        self._to_change: list[str] = []
        self._lies: set[str] = set()
        self._late = b""
        self._stalled_until_s = -math.inf
        self._silent = False
        self._unplugged = False
        self._generator = Generator(options.get("noise") or seeded_noise(urandom(SECRET_BYTES)))
        options["noise"] = self._generator
        self._drips_at_s: float | None = None
        self._storming = False
        while self._to_come and self._to_come[0][0] <= now_s:
            self._begin(self._to_come.pop(0)[1])
        super().__init__(long_term_key=long_term_key, now_s=now_s, **options)

    @property
    def next_due_s(self) -> float:
        """When, by the caller's clock, it will next do something by itself."""
        if self._unplugged:
            return math.inf
        due_s = [super().next_due_s, *(at_s for at_s, _ in self._to_come[:1])]
        if self._stalled:
            due_s.append(self._stalled_until_s)
        return min(due_s)

    @property
    def unplugged(self) -> bool:
        """Whether it has gone."""
        return self._unplugged

    def advance(self, now_s: float) -> None:
        """Do whatever is due up to `now_s`, its faults at their times."""
        while self._to_come and self._to_come[0][0] <= now_s:
            at_s, name = self._to_come.pop(0)
            self._pass_time(at_s)
            self._begin(name)
        self._pass_time(now_s)

    def take(self, size: int) -> bytes:
        """Return up to `size` of the bytes that wait for the host; none while it is silent or stalled."""
        return b"" if self._mute or self._stalled else super().take(size)

    def receive(self, packet: bytes) -> None:
        """Take one packet of the host's."""
        if not self._unplugged:
            super().receive(packet)

    # --- how faults begin

    @property
    def _mute(self) -> bool:
        return self._silent or self._unplugged

    @property
    def _stalled(self) -> bool:
        return self._now_s < self._stalled_until_s

    def _pass_time(self, now_s: float) -> None:
        self._now_s = max(self._now_s, now_s)
        if not self._unplugged:
            super().advance(now_s)

    def _begin(self, name: str) -> None:
        if name in _CHANGES:
            self._to_change.append(name)
        elif name in _ANSWERS:
            self._lies.add(name)
        elif name in FAILURES:
            self._generator.fail(name)
        elif name == "stall":
            self._stalled_until_s = self._now_s + STALL_S
        elif name == "silence":
            self._silent = True
        elif name == "unplug":
            self._unplugged = True
        elif name == "slow-drip":
            self._drips_at_s = self._now_s
        elif name == "garbage-storm":
            self._storming = True
        elif name == "recover":
            self._recover()
        else:
            self.fail(name.removeprefix("badness-"))

    def _recover(self) -> None:
        self._generator.recover()
        self._drips_at_s = None
        self._silent = self._storming = False

    def _struck(self, names: Iterable[str]) -> list[str]:
        """Return which of `names` chance decides for, this time."""
        return [
            name
            for name, chance, random in self._chances
            if name in names and int.from_bytes(random(8), "little") < chance * 2**64
        ]

    # --- what they change

    def _transmit(self, frame: bytes) -> None:
        for name in self._struck(_CHANGES | FAILURES | _CONDITIONS):
            self._begin(name)
        if self._mute or self._storming:
            return
        wire = frame
        for name in _CHANGES:
            if name in self._to_change and name != "reorder":
                self._to_change.remove(name)
                wire = self._changed(name, wire)
        if "reorder" in self._to_change and not self._late:
            self._to_change.remove("reorder")
            self._late = wire
        else:
            super()._transmit(wire + self._late)
            self._late = b""

    def _changed(self, name: str, wire: bytes) -> bytes:
        """Return what takes the place of one frame."""
        match name:
            case "wrong-mac":
                other = b"B" if wire[_MAC_AT : _MAC_AT + 1] == b"A" else b"A"
                return wire[:_MAC_AT] + other + wire[_MAC_AT + 1 :]
            case "truncate":
                return wire[: self._number(len(wire) - 1)]
            case "duplicate":
                return wire * 2
            case "drop":
                return b""
            case "noise":
                return self._random(self._number(NOISE_BYTES_MAX)) + wire
        return wire

    def _number(self, largest: int) -> int:
        return 1 + int.from_bytes(self._random(8), "little") % largest

    def _block(self) -> None:
        if self._storming:
            self._due += b"" if self._mute else self._random(STORM_BYTES)
        else:
            super()._block()

    def _frames(self) -> int:
        if self._drips_at_s is None:
            return super()._frames()
        if self._now_s < self._drips_at_s:
            return 0
        self._drips_at_s = self._now_s + DRIP_S
        return 1

    def _lying(self, name: str) -> bool:
        return name in self._lies or name in self._struck((name,))

    def _send_serial_number(self) -> None:
        if not self._lying("wrong-serial"):
            super()._send_serial_number()
            return
        # Valid for the key that it names: nothing but the expected serial tells.
        other = bytes((self._serial[0] ^ 0x80,)) + self._serial[1:]
        self._transmit(Session(other, ZERO_KEY).frame(binary_frame(FrameType.SERIAL_NUMBER, 0, other)))

    def _generators_failed(self) -> bool:
        return self._lying("bad-generators") or super()._generators_failed()

    def _reported_length(self, nonce_bytes: int) -> int:
        if not self._lying("wrong-nonce-length"):
            return nonce_bytes
        return nonce_bytes + 1 if nonce_bytes < SUB_CODE_MAX else nonce_bytes - 1
