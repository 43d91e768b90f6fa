# SPDX-License-Identifier: LGPL-2.1-or-later
"""A seed into this machine's own pool, where that is allowed."""

import os
import time

import pytest

from tests.unit.support import in_child, is_root
from virtrng import kernel
from virtrng.entropy.conditioner import Seed
from virtrng.errors import KernelRefused
from virtrng.feeder.injector import Injector
from virtrng.status import KernelStatus

SEED = Seed(bytes(32), 0)


@pytest.mark.parametrize("reseed", [True, False])
def test_seeds_are_counted(*, reseed: bool) -> None:
    if not is_root():
        with pytest.raises(KernelRefused, match="refused RNDADDENTROPY: no CAP_SYS_ADMIN"):
            Injector(reseed=reseed)
        return
    injector = Injector(reseed=reseed)
    before = injector.status
    assert before == KernelStatus(0, 0, 0, None, None, before.entropy_avail_bits)
    began_s = kernel.boottime_s()
    injector.inject(SEED, made_of_bytes=2500, now=17.5)
    injector.inject(SEED, made_of_bytes=100, now=18.5)
    found = injector.status
    injector.close()
    assert (found.seeds, found.seeded_bits, found.bytes_passed, found.last_seed_at) == (2, 0, 2600, 18.5)
    assert found.last_seed_boottime_s is not None
    assert began_s <= found.last_seed_boottime_s <= kernel.boottime_s()


def test_the_seed_and_its_credit_reach_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(kernel, "add_entropy", lambda _fd, data, bits: calls.append((data, bits)))
    monkeypatch.setattr(kernel, "reseed", lambda _fd: calls.append("reseed"))
    seed = Seed(bytes(range(32)), 256)
    for reseed in (True, False):
        injector = Injector(reseed=reseed)
        injector.inject(seed, made_of_bytes=1, now=time.time())
        assert injector.status.seeded_bits == 256
        injector.close()
    check = (b"", 0)
    assert calls == [check, (seed.data, 256), "reseed", check, (seed.data, 256)]


def test_a_refused_seed_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "check_access", lambda _fd: None)
    injector = Injector(reseed=True)

    def refuse(*_: object) -> None:
        raise KernelRefused("RNDADDENTROPY", "no CAP_SYS_ADMIN")

    monkeypatch.setattr(kernel, "add_entropy", refuse)
    with pytest.raises(KernelRefused):
        injector.inject(SEED, made_of_bytes=1, now=1.0)
    assert injector.status.seeds == 0
    injector.close()


def test_an_ordinary_user_is_refused_and_nothing_stays_open() -> None:
    def attempt() -> str:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(KernelRefused):
            Injector(reseed=True)
        return f"nothing more is open: {os.listdir('/proc/self/fd') == before}"

    assert in_child(attempt, nobody=True) == "nothing more is open: True"
