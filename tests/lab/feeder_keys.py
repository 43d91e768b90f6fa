# SPDX-License-Identifier: LGPL-2.1-or-later
"""Simulated keys whose faults begin when a test says so; what they made, and its worth, is remembered."""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from virtrng.sim import pty
from virtrng.sim.entropykey import derived, seeded_noise
from virtrng.sim.faults import FaultyEntropyKey

PIECE_BYTES = 32
PIECE_BITS = 8 * PIECE_BYTES
# As fast as the rest takes it: the key makes nothing while its host does not read.
RATE_BYTES_PER_S = 2_000_000.0
PATIENCE_S = 60.0
LONG_TERM_KEY = derived("the fault catalogue", "long-term key")

# The min-entropy of one bit while a generator fails so; all else that it does is worth nothing. A long cycle
# is sound in its first turn.
_WORTH = {
    "": 1.0,
    "long-cycle": 1.0,
    "half-dead": 0.5,
    **{f"biased-{percent}": -math.log2(percent / 100) for percent in (51, 52, 60)},
    "drift": -math.log2(0.6),  # at its end
}


class Worth:
    """What the pieces that keys made are worth, in bits."""

    def __init__(self) -> None:
        self._bits: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._bits)

    def note(self, piece: bytes, failure: str) -> None:
        """Remember a piece that was made while a generator failed so."""
        self._bits.setdefault(piece, _WORTH.get(failure, 0.0) * PIECE_BITS)

    def of(self, block: bytes, used: set[bytes]) -> float:
        """Return what a block is worth, where pieces that were used before are worth nothing.

        Its ends, which are parts of pieces, count as the rest. Fails when it is not what keys made.
        """
        pieces = self._pieces(block)
        bits = sum(self._bits[piece] for piece in pieces if piece not in used)
        used.update(pieces)
        return bits * len(block) / (len(pieces) * PIECE_BYTES)

    def younger(self, block: bytes, than: int) -> bool:
        """Whether all of a block was made when there were so many pieces already."""
        return not {*self._pieces(block)} & {*islice(self._bits, than)}

    def _pieces(self, block: bytes) -> list[bytes]:
        for phase in range(PIECE_BYTES):
            starts = range(phase, len(block) - PIECE_BYTES + 1, PIECE_BYTES)
            pieces = [block[at : at + PIECE_BYTES] for at in starts]
            if all(piece in self._bits for piece in pieces):
                return pieces
        raise AssertionError("no key made this block")


class RiggedKey(FaultyEntropyKey):
    """A key whose faults begin when a test says so, and that stops making noise after so many frames."""

    def __init__(self, worth: Worth, serial: str, seed: str) -> None:
        self._inflicted: deque[Callable[[], object]] = deque()
        self._failing = ""
        self.frames_left = math.inf
        self.frames_made = 0
        super().__init__(
            [],
            seed=seed,
            serial=serial,
            long_term_key=LONG_TERM_KEY,
            now_s=time.monotonic(),
            rate_bytes_per_s=RATE_BYTES_PER_S,
            noise=seeded_noise(derived(seed, "noise")),
            device_entropy=seeded_noise(derived(seed, "device entropy")),
        )
        make, self._worth = self._noise, worth
        self._noise = partial(self._made, make)

    def _made(self, make: Callable[[int], bytes], size: int) -> bytes:
        piece = make(size)
        self._worth.note(piece, self._failing)
        self.frames_made += 1
        return piece

    def soon(self, act: Callable[[], object]) -> None:
        """Have its own thread do something before it makes the next block."""
        self._inflicted.append(act)

    def advance(self, now_s: float) -> None:
        while self._inflicted:
            self._inflicted.popleft()()
        super().advance(now_s)

    def _begin(self, name: str) -> None:
        if name in ("recover", "stuck", "drift", "half-dead") or name.startswith(
            ("biased", "short-", "long-")
        ):
            self._failing = name.removeprefix("recover")
        super()._begin(name)

    def _frames(self) -> int:
        frames = min(super()._frames(), self.frames_left)
        self.frames_left -= frames
        return int(frames)


class Plugged:
    """A rigged key at its place, until it is pulled out or unplugs itself."""

    def __init__(self, key: RiggedKey, link: Path) -> None:
        self.key = key
        self.link = link
        self._stop, self._stopped = os.pipe()
        there = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(there,))
        self._thread.start()
        assert there.wait(PATIENCE_S)

    def _serve(self, there: threading.Event) -> None:
        with pty.terminal(self.link) as at:
            there.set()
            pty.serve(self.key, at, self._stop)

    def inflict(self, *faults: str, frames: float = math.inf) -> None:
        """Begin these faults, in this order and at one moment; make so many frames more."""
        begun = threading.Event()

        def act() -> None:
            self.key.frames_left = frames
            for name in faults:
                self.key._begin(name)
            begun.set()

        self.key.soon(act)
        assert begun.wait(PATIENCE_S)

    def pull(self) -> None:
        """Have it gone."""
        if self._stopped >= 0:
            os.close(self._stopped)
            self._thread.join()
            os.close(self._stop)
            self._stopped = -1
