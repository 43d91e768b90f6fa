# SPDX-License-Identifier: LGPL-2.1-or-later
"""The feeder with its real threads: a key on a pseudo-terminal, drivers that hang, a look that hangs."""

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.unit.feeder.rig import Clock, Counters, Recorder
from tests.unit.transport.served import KEYRING_LINE, on_a_pty
from virtrng.config import FeederSettings
from virtrng.errors import KeyLost, NoKey
from virtrng.feeder import looker as looker_module
from virtrng.feeder import ports, source
from virtrng.feeder.bell import Bell
from virtrng.feeder.daemon import Feeder
from virtrng.feeder.looker import Looker
from virtrng.feeder.source import Look, Source
from virtrng.keys.base import Noise
from virtrng.sim.entropykey import SERIAL, seeded_noise
from virtrng.status import KeyStatus
from virtrng.transport import scan

LIMIT_S = 60.0
# It yields what it waits for, and ends the feeder where it ends.
Story = Iterator[Callable[[], object]]


class Live:
    """A feeder with threads, that tells a story."""

    def __init__(self, run_dir: Path, look: Callable[[], Look | None], bell: Bell) -> None:
        self.recorder = Recorder(Clock())
        self.bell = bell
        self.feeder = Feeder(FeederSettings(), run_dir, self.recorder, look, bell, enough=self._goes_on)

    def tell(self, story: Story) -> None:
        self._story = story
        self._waits_for = next(story)
        self._ends_at_s = time.monotonic() + LIMIT_S
        self.feeder.run()

    def _goes_on(self, _given: object) -> bool:
        assert time.monotonic() < self._ends_at_s, "what it waits for does not come"
        self.bell.ring()  # so that it is asked again at once
        while self._waits_for():
            try:
                self._waits_for = next(self._story)
            except StopIteration:
                return True
        return False

    @property
    def keys(self) -> list[KeyStatus]:
        return list(self.feeder.latest.keys) if self.feeder.latest else []


class NoisyKey:
    """A key that gives noise as fast as it is read, until its driver hangs in a read."""

    simulated = False

    def __init__(self, serial: str, *, hangs_after: int | None = None) -> None:
        self.serial = serial
        self.counters = Counters()
        self.noise = seeded_noise(serial.encode().ljust(32))
        self.hangs_after = hangs_after
        self.hanging, self.released, self.closed = (threading.Event() for _ in range(3))
        self.reads = 0

    def start(self) -> None:
        pass

    def read(self, timeout_ms: int) -> Noise | None:
        self.reads += 1
        if self.reads == self.hangs_after:
            self.hanging.set()
            assert self.released.wait(LIMIT_S)
            raise KeyLost(self.serial, "being read")
        return Noise(self.serial, self.noise(2500), 10_000)

    def close(self) -> None:
        self.closed.set()

    @property
    def source(self) -> Source:
        return Source(f"k:serial={self.serial}", "k", self.serial, "here", 0.5, lambda: self)


@pytest.fixture
def bell() -> Iterator[Bell]:
    with closing(Bell()) as bell:
        yield bell


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().split("\n")[0] for record in caplog.records]


def test_a_key_comes_and_goes_while_it_runs(
    tmp_path: Path, bell: Bell, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(looker_module, "LOOK_S", 0.02)
    keyring = tmp_path / "keyring"
    keyring.write_text(KEYRING_LINE)
    keyring.chmod(0o600)
    name = f"entropykey:{tmp_path}/link"
    with closing(Looker(lambda: source.look((), keyring, [name]), bell.ring, usb=False)) as looker:
        live = Live(tmp_path / "run", lambda: looker.latest, bell)

        def story() -> Story:
            yield lambda: live.feeder.latest and live.feeder.latest.waiting
            with on_a_pty(tmp_path / "link"):
                yield lambda: [key.state for key in live.keys] == ["ok"]
            yield lambda: [key.state for key in live.keys] == ["absent"]

        live.tell(story())
    assert live.recorder.seeds
    said = messages(caplog)
    assert said[0] == f"no key at {tmp_path}/link: nothing is there; waiting for a key"
    assert said[1].startswith(f"entropykey:serial={SERIAL}: session established, simulated by virtrng")
    lost = re.compile(rf"{re.escape(name)} was lost while being (read|written to); waiting for a key")
    assert any(map(lost.match, said))


def test_a_driver_that_hangs_delays_no_other_key_and_not_the_end(
    tmp_path: Path, bell: Bell, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "END_S", 0.05)
    hung, good = NoisyKey("a", hangs_after=20), NoisyKey("b")
    live = Live(tmp_path / "run", lambda: Look((hung.source, good.source)), bell)

    def story() -> Story:
        yield hung.hanging.is_set
        reads = good.reads
        yield lambda: good.reads > reads + 20

    live.tell(story())
    assert good.closed.is_set()
    assert not hung.closed.is_set()
    assert messages(caplog)[-1] == "k:serial=a: its driver does not come back; it is left behind"
    hung.released.set()
    assert hung.closed.wait(LIMIT_S)
    _join("read k:serial=a")


def test_the_end_waits_until_keys_are_given_back(tmp_path: Path, bell: Bell) -> None:
    keys = [NoisyKey("a"), NoisyKey("b")]
    live = Live(tmp_path / "run", lambda: Look(tuple(key.source for key in keys)), bell)

    def story() -> Story:
        yield lambda: [key.state for key in live.keys] == ["ok", "ok"]

    live.tell(story())
    assert [key.closed.is_set() for key in keys] == [True, True]
    assert live.recorder.seeds


def _join(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(LIMIT_S)


# --- looking


def heard(look: Looker, bell: Bell, holds: Callable[[Look | None], bool]) -> Look | None:
    """Wait at the bell until the look is as it should be."""
    for _ in range(1000):
        if holds(look.latest):
            return look.latest
        bell.wait(LIMIT_S)
    raise AssertionError(look.latest)


def test_what_changes_is_told_and_nothing_else(bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looker_module, "LOOK_S", 0.001)
    looks = [Look((), (NoKey(),))]
    looked = threading.Semaphore(0)

    def look() -> Look:
        looked.release()
        return looks[-1]

    rings: list[int] = []

    def ring() -> None:
        rings.append(1)
        bell.ring()

    with closing(Looker(look, ring, usb=False)) as looker:
        assert heard(looker, bell, lambda seen: seen is not None) == looks[0]
        for _ in range(20):
            assert looked.acquire(timeout=LIMIT_S)
        assert len(rings) == 1
        looks.append(Look((NoisyKey("a").source,)))
        assert heard(looker, bell, lambda seen: bool(seen and seen.sources)) == looks[1]


def test_a_look_that_fails_is_told_once_and_tried_again(
    bell: Bell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(looker_module, "LOOK_S", 0.001)
    good = Look((NoisyKey("a").source,))
    results: list[Look | Exception] = [OSError(24, "Too many open files")] * 5

    def look() -> Look:
        result = results.pop() if results else good
        if isinstance(result, Exception):
            raise result
        return result

    with closing(Looker(look, bell.ring, usb=False)) as looker:
        heard(looker, bell, lambda seen: seen == good)
    assert messages(caplog) == ["keys cannot be looked for"]


def test_a_look_that_hangs_delays_nobody(tmp_path: Path, bell: Bell) -> None:
    hangs = threading.Event()

    def look() -> Look:
        assert hangs.wait(LIMIT_S)
        return Look(())

    looker = Looker(look, bell.ring, usb=False)
    live = Live(tmp_path / "run", lambda: looker.latest, bell)

    def story() -> Story:
        yield lambda: live.feeder.latest

    live.tell(story())
    looker.close(0.05)
    hangs.set()
    _join("look for keys")
    looker.close()  # of what was left behind, for the sake of this process


def test_with_udev_it_looks_when_something_is_plugged_in(bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)

    class Told:
        heard = True

        def fileno(self) -> int:
            return ours.fileno()

        def drain(self) -> None:
            with suppress(BlockingIOError):
                ours.recv(1)

    monkeypatch.setattr(looker_module, "Plugs", Told)
    monkeypatch.setattr(looker_module, "LOOK_WITH_UDEV_S", LIMIT_S)
    monkeypatch.setattr(looker_module, "LOOK_S", 0.0)
    looks: list[Look] = [Look(()), Look((), (NoKey(),))]
    count: list[int] = []

    def look() -> Look:
        count.append(1)
        return looks[min(len(count), 2) - 1]

    with ours, theirs:
        looker = Looker(look, bell.ring, usb=True)
        heard(looker, bell, lambda seen: seen == looks[0])
        theirs.send(b"x")
        heard(looker, bell, lambda seen: bool(seen and seen.missing))
        assert len(count) == 2
        theirs.send(b"x")
        looker.close()


def test_where_netlink_is_closed_to_it_it_looks_from_time_to_time(
    bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> scan.Plugs:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(looker_module, "Plugs", refused)
    monkeypatch.setattr(looker_module, "LOOK_S", 0.001)
    looked = threading.Semaphore(0)
    with closing(Looker(lambda: looked.release() or Look(()), bell.ring, usb=True)):  # type: ignore[func-returns-value]
        for _ in range(3):
            assert looked.acquire(timeout=LIMIT_S)
