# SPDX-License-Identifier: LGPL-2.1-or-later
"""One session with one key, in a thread of its own: drivers block, and may do so for ever."""

import logging
from collections.abc import Callable, Iterator
from threading import Thread

from virtrng.errors import FileFailed, KeyFault, KeyTrouble
from virtrng.feeder.source import Source
from virtrng.feeder.states import State
from virtrng.feeder.stock import Stock, Stocks
from virtrng.keys.base import Key

log = logging.getLogger(__name__)

READ_TIMEOUT_MS = 1000


class Reader:
    """Opens a key, makes it ready, and reads it until it fails, its life fails, or it is told to stop.

    What it has to say is in its attributes, which its thread sets and the feeder
    reads: `ended`, `trouble` if that is why, `stock` while and after a session,
    `serial` as far as it is known, `lasted_s` how long a session was that has ended,
    `since_s` from when on its driver has been busy. The feeder sets `stopping`;
    `join` waits for the end, so many seconds at most.
    """

    def __init__(
        self, source: Source, stocks: Stocks, ring: Callable[[], None], awake: Callable[[], float]
    ) -> None:
        """`ring` is called when the feeder has something to do; `awake` counts seconds outside suspends."""
        self.source = source
        self.serial = source.serial
        self.stock: Stock | None = None
        self.trouble: KeyTrouble | FileFailed | None = None  # the file is the keyring
        self.ended = False
        self.stopping = False
        self.join: Callable[[float], object] = lambda _timeout_s: None
        self.lasted_s = 0.0
        self.since_s = awake()
        self._stocks = stocks
        self._ring = ring
        self._awake = awake

    def run(self) -> None:
        """Do all of it."""
        for _ in self.pieces():
            pass

    def pieces(self) -> Iterator[None]:
        """Do it piece by piece, each of which may block once. Raises nothing."""
        try:
            for _ in self._session():
                self.since_s = self._awake()
                yield
        except (KeyTrouble, FileFailed) as trouble:
            self.trouble = trouble
        except Exception as error:  # a bug met in one key's driver must not cost the others
            log.exception("%s: internal error", self.source.name)
            self.trouble = KeyFault(self.source.name, f"internal error: {type(error).__name__}: {error}")
        finally:
            self.ended = True
            self._ring()

    def _session(self) -> Iterator[None]:
        yield
        key = self.source.open()
        try:
            yield
            try:
                key.start()
            finally:  # what it lacks is told with the serial that it reported
                self.serial = key.serial or self.serial
            yield from self._reading(key)
        finally:
            key.close()

    def _reading(self, key: Key) -> Iterator[None]:
        stock = self._stocks.of(self.source.kind, key.serial, self.source.min_entropy)
        note = ", simulated by virtrng: mixed in with a credit of 0" if key.simulated else ""
        log.info("%s: session established%s", stock.name, note)
        stock.begin(self, key)
        self.stock = stock
        self._ring()
        began_s = self._awake()
        try:
            while not self.stopping and stock.state is not State.FAILED:
                yield
                noise = key.read(READ_TIMEOUT_MS)
                if stock.put(self, noise, key.counters):
                    self._ring()
        finally:  # after trouble too: the last that a key said may tell why
            self.lasted_s = self._awake() - began_s
            stock.end(self, key.counters)


def in_thread(reader: Reader) -> None:
    """Have a reader run in a thread of its own."""
    # One that hangs in its driver must not keep the process from ending.
    thread = Thread(target=reader.run, name=f"read {reader.source.name}", daemon=True)
    reader.join = thread.join
    thread.start()
