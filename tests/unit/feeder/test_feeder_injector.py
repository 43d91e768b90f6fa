# SPDX-License-Identifier: LGPL-2.1-or-later
"""A seed goes from one process to the other and into the pool: once, as it is, and nothing else does."""

import errno
import itertools
import os
import select
import signal
import socket
import struct
import time
from pathlib import Path

import pytest

from tests.scale import scaled
from tests.unit.feeder.served import (
    NO_PROCESS,
    Hurry,
    fork,
    in_two_processes,
    seeds_in,
    served,
    socketpair,
    wait_for,
)
from tests.unit.support import is_root
from virtrng import kernel
from virtrng.entropy.conditioner import Seed
from virtrng.entropy.params import SEED_BITS, SEED_BYTES
from virtrng.errors import FileFailed, InjectorLost, KernelRefused
from virtrng.feeder import injector as module
from virtrng.feeder import injector_process
from virtrng.feeder.injector import Injector
from virtrng.feeder.injector_process import ANSWER, CREDITS_BITS, REQUEST, Pace
from virtrng.status import KernelStatus

SEED = Seed(bytes(32), 0)
CREDITED = Seed(bytes(range(32)), 256)
GONE = "the process that seeds the kernel's pool "


class Calls:
    """In the place of the ioctls: keeps what it was given, and refuses what it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[object] = []
        self.buffers: list[bytearray] = []
        self.refused: dict[str, int] = {}
        monkeypatch.setattr(kernel, "check_access", lambda _fd: None)
        monkeypatch.setattr(kernel, "add_entropy", self.add_entropy)
        monkeypatch.setattr(kernel, "reseed", self.reseed)

    def add_entropy(self, _fd: int, content: bytearray, bits: int) -> None:
        self.buffers.append(content)
        self._answer("RNDADDENTROPY", (bytes(content), bits))

    def reseed(self, _fd: int) -> None:
        self._answer("RNDRESEEDCRNG", "reseed")

    def _answer(self, ioctl: str, call: object) -> None:
        if number := self.refused.get(ioctl):
            error = OSError(number, os.strerror(number))
            raise kernel.refused(ioctl, error) from error
        self.made.append(call)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def test_both_modules_mean_the_same_seed() -> None:
    assert (injector_process.SEED_BYTES, CREDITS_BITS) == (SEED_BYTES, (0, SEED_BITS))


# --- what is given, and counted


def test_seeds_reach_this_machines_pool_and_are_counted() -> None:
    with served() as (injector, _):
        if not is_root():
            with pytest.raises(KernelRefused, match="refused RNDADDENTROPY: no CAP_SYS_ADMIN"):
                injector.began()
            return
        injector.began()
        before = injector.status
        assert before == KernelStatus(0, 0, 0, None, None, before.entropy_avail_bits, crng_ready=True)
        began_s = kernel.boottime_s()
        injector.inject(SEED, made_of_bytes=2500, now=17.5)
        injector.inject(SEED, made_of_bytes=100, now=18.5)
        found = injector.status
    assert (found.seeds, found.seeded_bits, found.bytes_passed, found.last_seed_at) == (2, 0, 2600, 18.5)
    assert found.last_seed_boottime_s is not None
    assert began_s <= found.last_seed_boottime_s <= kernel.boottime_s()


@pytest.mark.parametrize("reseed", [True, False])
def test_the_seed_and_its_credit_reach_the_kernel(calls: Calls, *, reseed: bool) -> None:
    with served(reseed=reseed) as (injector, _):
        injector.began()
        for seed in (CREDITED, SEED):
            injector.inject(seed, made_of_bytes=1, now=time.time())
        assert injector.status.seeded_bits == 256
    each = ["reseed"] if reseed else []
    assert calls.made == [(CREDITED.data, 256), *each, (SEED.data, 0), *each]


@pytest.mark.parametrize("ioctl", ["RNDADDENTROPY", "RNDRESEEDCRNG"])
@pytest.mark.parametrize(("number", "why"), [(errno.EPERM, "no CAP_SYS_ADMIN"), (errno.ENOTTY, "Inappr")])
def test_a_refused_seed_is_not_counted(calls: Calls, ioctl: str, number: int, why: str) -> None:
    calls.refused[ioctl] = number
    with served() as (injector, _):
        injector.began()
        with pytest.raises(KernelRefused, match=f"refused {ioctl}: {why}"):
            injector.inject(SEED, made_of_bytes=1, now=1.0)
        assert injector.status.seeds == 0


def test_the_readiness_of_the_generator_is_told(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as (injector, _):
        injector.began()
        monkeypatch.setattr(kernel, "crng_ready", lambda: False)
        assert injector.status.crng_ready is False


# --- what the injector takes


@pytest.mark.parametrize(
    "request_",
    [
        *(struct.pack("=i32s", bits, bytes(32)) for bits in (-1, 1, 128, 255, 257, 2**31 - 1)),
        REQUEST.pack(256, bytes(32))[:-1],
        REQUEST.pack(256, bytes(32)) + b"\0",
        REQUEST.pack(256, bytes(32)) * 100,
        b"x",
    ],
)
def test_what_is_no_seed_does_nothing(calls: Calls, request_: bytes) -> None:
    with served() as (injector, connection):
        injector.began()
        connection.send(request_)
        assert ANSWER.unpack(connection.recv(100)) == (0, errno.EBADMSG, 0)
        injector.inject(CREDITED, made_of_bytes=1, now=1.0)
    assert calls.made == [(CREDITED.data, 256), "reseed"]


def test_it_keeps_no_seed(calls: Calls) -> None:
    sent: list[bytearray] = []

    class Seen(socket.socket):
        def send(self, data: bytearray, flags: int = 0) -> int:  # type: ignore[override]
            sent.append(data)
            return super().send(data, flags)

    with served() as (injector, connection):
        injector.began()
        injector._connection = Seen(fileno=connection.detach())
        injector.inject(CREDITED, made_of_bytes=1, now=1.0)
    assert sent == [bytearray(REQUEST.size)]
    assert calls.buffers == [bytearray(32)]


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 500.0
        self.slept_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(round(seconds, 6))
        self.now_s += seconds


def test_ten_at_once_and_then_one_each_interval() -> None:
    time_ = Time()
    pace = Pace(lambda: time_.now_s, time_.sleep)
    for _ in range(30):
        pace.wait(0.125)
    assert time_.slept_s == [0.125] * 20
    time_.now_s += 3600.0
    for _ in range(11):
        pace.wait(0.125)
    assert time_.slept_s == [0.125] * 21, "an hour without seeds allows no more than ten at once"


def test_the_pace_is_faster_until_the_generator_is_ready(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = iter([False, False, True])
    monkeypatch.setattr(kernel, "crng_ready", lambda: next(ready))
    pace = Hurry()
    with served(pace=pace) as (injector, _):
        injector.began()
        for _ in range(4):
            injector.inject(SEED, made_of_bytes=1, now=1.0)
    assert pace.intervals_s == [0.01, 0.01, 0.1, 0.1]


# --- one end without the other


def test_it_is_looked_for_without_waiting(calls: Calls) -> None:
    with served() as (injector, _):
        injector.began()
        injector.check()
        injector.check()


def test_an_injector_that_has_ended_is_noticed() -> None:
    ours, its = socketpair()
    injector = Injector(ours, NO_PROCESS)
    its.close()
    for act in (injector.check, injector.began, lambda: injector.inject(SEED, made_of_bytes=1, now=1.0)):
        with pytest.raises(InjectorLost) as caught:
            act()
        assert str(caught.value) == f"{GONE}has ended"
    assert injector.status.seeds == 0
    injector.close()


def test_an_answer_to_nothing_is_not_believed() -> None:
    ours, its = socketpair()
    injector = Injector(ours, NO_PROCESS)
    its.send(ANSWER.pack(0, 0, 0))
    with pytest.raises(InjectorLost, match="spoke unasked"):
        injector.check()
    injector.close()
    its.close()


def test_after_an_answer_that_does_not_come_nothing_more_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.001)
    ours, its = socketpair()
    injector = Injector(ours, NO_PROCESS)
    with pytest.raises(InjectorLost, match=r"did not answer within 0\.001 s"):
        injector.inject(CREDITED, made_of_bytes=1, now=1.0)
    with pytest.raises(InjectorLost):
        injector.inject(CREDITED, made_of_bytes=1, now=1.0)
    assert [its.recv(100), its.recv(100)] == [REQUEST.pack(256, CREDITED.data), b""]
    assert injector.status.seeds == 0
    injector.close()
    its.close()


@pytest.mark.parametrize(("number", "how"), [(9, "was killed by signal 9"), (0, "has ended with status 0")])
def test_how_it_ended_is_told(number: int, how: str) -> None:
    ours, its = socketpair()
    pid = fork(lambda: its.recv(1))
    its.close()
    injector = Injector(ours, pid)
    if number:
        os.kill(pid, number)
    else:
        ours.send(b"x")
    assert select.select([ours], [], [], 30.0)[0]
    with pytest.raises(InjectorLost) as caught:
        injector.check()
    assert str(caught.value) == GONE + how
    injector.close()


@pytest.mark.parametrize("whose", ["injector", "reader"])
def test_without_dev_random_neither_begins(whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        raise FileFailed("/dev/random", "open", str(error.strerror)) from error

    ours, its = socketpair()
    if whose == "reader":
        monkeypatch.setattr(kernel, "open_random", fail)
        with pytest.raises(FileFailed, match="cannot open /dev/random: Too many open files"):
            Injector(ours, NO_PROCESS)
    else:
        injector = Injector(ours, NO_PROCESS)
        monkeypatch.setattr(kernel, "open_random", fail)
        injector_process.serve(its.fileno(), Hurry(), reseed=True)
        with pytest.raises(FileFailed, match="cannot open /dev/random: Too many open files"):
            injector.began()
        injector.close()
    assert its.recv(1) == b"", "the other end is closed"
    its.close()


def test_a_reader_that_ends_before_its_answer_ends_the_injector_in_peace(calls: Calls) -> None:
    ours, its = socketpair()
    ours.send(REQUEST.pack(0, bytes(32)))
    ours.close()
    injector_process.serve(its.fileno(), Hurry(), reseed=True)
    its.close()


# --- kill -9 at any moment: what was recorded was sent, and nothing is there twice


def numbered() -> "itertools.chain[Seed]":
    return itertools.chain(Seed(number.to_bytes(32), 256) for number in itertools.count(1))


@pytest.mark.parametrize("killed_after", [0, 1, 2, 5, 20, *[50] * scaled(5)])
def test_killing_the_injector_credits_nothing_twice(tmp_path: Path, killed_after: int) -> None:
    recorded = tmp_path / "recorded"
    sent, answered = [], []
    with in_two_processes(recorded) as injector:
        injector.began()

        def kill() -> None:
            wait_for(lambda: len(seeds_in(recorded)) >= killed_after)
            os.kill(injector._pid, signal.SIGKILL)

        killer = fork(kill)
        with pytest.raises(InjectorLost):  # noqa: PT012  at which of them is not known
            for seed in numbered():
                sent.append(seed.data)
                injector.inject(seed, made_of_bytes=1, now=1.0)
                answered.append(seed.data)
        assert injector.status.seeds == len(answered)
    os.waitpid(killer, 0)
    given = seeds_in(recorded)
    assert given in (sent, answered)
    assert len(sent) == len(answered) + 1
    assert len(given) >= killed_after


@pytest.mark.parametrize("killed_after", [1, 2, 5, 20, *[50] * scaled(5)])
def test_killing_the_reader_ends_the_injector_and_credits_nothing_twice(
    tmp_path: Path, killed_after: int
) -> None:
    recorded, sent = tmp_path / "recorded", tmp_path / "sent"
    ended, alive = os.pipe()  # its end comes when both processes have ended

    def read() -> None:
        with in_two_processes(recorded) as injector, sent.open("ab", buffering=0) as file:
            injector.began()
            for seed in numbered():
                file.write(seed.data)
                injector.inject(seed, made_of_bytes=1, now=1.0)

    reader = fork(read)
    os.close(alive)
    wait_for(lambda: len(seeds_in(recorded)) >= killed_after)
    os.kill(reader, signal.SIGKILL)
    os.waitpid(reader, 0)
    assert select.select([ended], [], [], 30.0)[0]
    assert os.read(ended, 1) == b""
    os.close(ended)
    given, all_sent = seeds_in(recorded), seeds_in(sent)
    assert given in (all_sent, all_sent[:-1])
    assert len(given) >= killed_after
