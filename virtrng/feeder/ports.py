# SPDX-License-Identifier: LGPL-2.1-or-later
"""The places where keys are now, with a reader for each that can be used."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from virtrng.errors import FileFailed, KeyLost, KeySelfStopped, KeyTrouble
from virtrng.feeder.backoff import Backoff
from virtrng.feeder.journal import Troubles
from virtrng.feeder.keyrings import Keyrings
from virtrng.feeder.reader import Reader
from virtrng.feeder.source import Look, Source
from virtrng.feeder.states import State
from virtrng.feeder.stock import Stock, Stocks, already_read
from virtrng.status import ABSENT, KeyStatus

log = logging.getLogger(__name__)

# The longest that a driver takes is start() of the Entropy Key's, 10 s.
HUNG_S = 30.0
# A read takes READ_TIMEOUT_MS; a key that is just being made ready is left behind.
END_S = 3.0

SHUT_OUT = (State.QUARANTINE, State.FAILED)


@dataclass(eq=False)
class Port:
    """Where one key is; `reader` reads it now, else `trouble` is why not. `present`: the last look saw it."""

    source: Source
    serial: str
    present: bool = True
    reader: Reader | None = None
    stock: Stock | None = None
    trouble: KeyTrouble | FileFailed | None = None
    hung: bool = False
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def about(self) -> str:
        """What it is called where two keys may have one name."""
        return f"{self.source.name} at {self.source.place}"

    @property
    def in_session(self) -> Stock | None:
        """The stock that is being filled from here, None if none is."""
        return self.reader.stock if self.reader and not self.reader.ended and not self.hung else None


class Ports:
    """All of them. For the feeder's thread alone."""

    def __init__(
        self,
        stocks: Stocks,
        ring: Callable[[], None],
        clock: Callable[[], float],
        awake: Callable[[], float],
        spawn: Callable[[Reader], object],
    ) -> None:
        """`spawn` has a reader run; `ring`, `clock` and `awake` are as the feeder has them."""
        self._stocks = stocks
        self._ring = ring
        self._clock = clock
        self._awake = awake
        self._spawn = spawn
        self._keyrings = Keyrings(clock)
        self._troubles = Troubles()
        self._ports: dict[tuple[str, str], Port] = {}
        self._missing: tuple[KeyTrouble, ...] = ()
        self._faults: dict[str, str] = {}  # what ended the last session of each key, by its name

    # --- what is plugged in

    def match(self, look: Look) -> None:
        """Have a port for each key that was seen; one that has gone stays until its reader has noticed."""
        seen = {(source.name, source.place): source for source in look.sources}
        for place, port in self._ports.items():
            port.present = place in seen
        for place, source in seen.items():
            if place not in self._ports:
                self._ports[place] = Port(source, source.serial)
        names = {source.name for source in look.sources}
        for port in self._ports.values():
            if port.reader and not port.present and port.source.name in names:
                port.reader.stopping = True  # the same key is there again, at another place
        self._missing = look.missing

    def tend(self) -> None:
        """Start readers where that may help, and see to those that ended."""
        for place, port in list(self._ports.items()):
            self._watch(port)
            if port.reader is None and not port.present:
                del self._ports[place]
        abouts = {port.about for port in self._ports.values()}
        self._keyrings.forget_all_but(abouts)
        self._troubles.only(abouts | {str(trouble) for trouble in self._missing})
        for port in self._ports.values():
            if port.reader is None and self._may_start(port):
                port.reader = Reader(port.source, self._stocks, self._ring, self._awake)
                self._spawn(port.reader)
        # What one that was just unplugged has to say comes first.
        for trouble in self._missing if all(port.present for port in self._ports.values()) else ():
            self._troubles.say(str(trouble), trouble, last=not self.in_use)

    def _watch(self, port: Port) -> None:
        reader = port.reader
        if reader is None:
            return
        hung = not reader.ended and self._awake() - reader.since_s >= HUNG_S
        if hung and not port.hung:
            log.error("%s: %s", port.source.name, _hangs())
        port.hung = hung
        port.serial = reader.serial
        port.stock = reader.stock or port.stock
        if reader.stock is not None and not reader.ended:
            port.trouble = None
            self._troubles.over(port.about)
        if reader.ended:
            self._reap(port, reader)

    def _reap(self, port: Port, reader: Reader) -> None:
        reader.join(END_S)
        port.reader = None
        port.trouble = reader.trouble
        if reader.stock is not None:
            self._troubles.over(port.about)
        if reader.trouble is None:
            return
        if port.stock is not None:
            self._faults[port.stock.name] = str(reader.trouble)
        if not self._keyrings.note(port.about, reader.trouble):
            port.backoff.failed(self._clock(), reader.lasted_s)
        self._troubles.say(port.about, reader.trouble, last=not self.in_use)

    def _may_start(self, port: Port) -> bool:
        stock = port.stock or self._stocks.find(port.source.kind, port.serial)
        if stock is not None and stock.state is State.FAILED:
            port.stock = stock
            return False
        rivals = (one.reader for one in self._ports.values() if one.source.name == port.source.name)
        if any(reader is not None and not reader.stopping for reader in rivals):
            port.trouble = already_read(port.source.name)
            self._troubles.say(port.about, port.trouble, last=False)
            return False
        return not port.backoff.waits(self._clock()) and not self._keyrings.waits(port.about)

    def close(self) -> None:
        """End the readers; one whose driver does not come back is left behind."""
        readers = [port.reader for port in self._ports.values() if port.reader]
        for reader in readers:
            reader.stopping = True
        until_s = self._awake() + END_S
        for reader in readers:
            reader.join(max(0.0, until_s - self._awake()))
            if not reader.ended:
                log.warning("%s: its driver does not come back; it is left behind", reader.source.name)

    # --- what can be said of them

    @property
    def in_use(self) -> bool:
        """Whether a session with any of them runs."""
        return any(port.in_session for port in self._ports.values())

    @property
    def feeding(self) -> list[str]:
        """The names of the keys that are OK, marked where they are simulated."""
        stocks = (port.in_session for port in self._ports.values())
        return [stock.label for stock in stocks if stock and stock.state is State.OK]

    @property
    def promising(self) -> bool:
        """Whether one of them may soon give bytes that are credited."""
        return any(
            port.reader
            and not port.hung
            and (port.stock is None or not (port.stock.simulated or port.stock.state in SHUT_OUT))
            for port in self._ports.values()
        )

    @property
    def waiting(self) -> str | None:
        """Why no key is in use; None if one is, or none was tried yet."""
        if self.in_use:
            return None
        failed = [
            f"{stock.label}: {stock.status.reason}" for stock in self._standing if stock.state is State.FAILED
        ]
        troubles = [*(port.trouble for port in self._ports.values()), *self._missing]
        return next((str(why) for why in (*troubles, *failed) if why), None)

    @property
    def standing(self) -> str:
        """The state of each key that was ever in use and is here."""
        return ", ".join(f"{stock.label}: {stock.state.value}" for stock in self._standing)

    @property
    def _standing(self) -> list[Stock]:
        return [port.stock for port in self._ports.values() if port.stock]

    def statuses(self) -> tuple[KeyStatus, ...]:
        """Return how each key fares that is here, and then each that was."""
        shown: dict[str, KeyStatus] = {}
        for port in self._ports.values():
            found = self._status(port)
            name = f"{found.kind}:serial={found.serial}" if found.serial else port.about
            if name not in shown or port.in_session:  # of two that tell one name, the one that is read
                shown[name] = found
        for stock in self._stocks.all():
            shown.setdefault(stock.name, self._faulty(stock, ABSENT))
        return tuple(shown.values())

    def _status(self, port: Port) -> KeyStatus:
        stock, trouble = port.stock, port.trouble
        if stock is None:
            reason = str(trouble) if trouble else None
            return KeyStatus.unread(port.source.kind, port.serial, _state(trouble), reason)
        if port.hung:
            return replace(stock.status, state=State.PROBE.value, reason=_hangs(), until_boottime_s=None)
        if port.in_session or stock.state in SHUT_OUT:
            return stock.status
        if trouble is None:
            return replace(stock.status, state=State.PROBE.value, reason=None, until_boottime_s=None)
        return replace(self._faulty(stock, _state(trouble)), reason=str(trouble), until_boottime_s=None)

    def _faulty(self, stock: Stock, state: str) -> KeyStatus:
        found = stock.status
        return replace(found, state=state, last_fault=self._faults.get(stock.name, found.last_fault))


def _state(trouble: KeyTrouble | FileFailed | None) -> str:
    if isinstance(trouble, KeyLost):
        return ABSENT
    state = State.FAILED if isinstance(trouble, KeySelfStopped) else State.PROBE
    return str(state.value)


def _hangs() -> str:
    return f"its driver has not come back for {HUNG_S:.0f} s"
