# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ioctls of random(4), on this machine's own /dev/random, and those of a terminal."""

import errno
import fcntl
import importlib
import os
import resource
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import pytest

from tests.unit.support import in_child, is_root
from virtrng import kernel
from virtrng.errors import FileFailed, KernelRefused


@pytest.fixture
def random_fd() -> Iterator[int]:
    fd = kernel.open_random()
    yield fd
    os.close(fd)


# include/uapi/linux/random.h with the direction bits of asm-generic/ioctl.h and of the others.
NUMBERS = {
    "x86_64": (0x80045200, 0x40085203, 0x5207),
    "aarch64": (0x80045200, 0x40085203, 0x5207),
    "s390x": (0x80045200, 0x40085203, 0x5207),
    "ppc64le": (0x40045200, 0x80085203, 0x20005207),
    "mips64": (0x40045200, 0x80085203, 0x20005207),
    "sparc64": (0x40045200, 0x80085203, 0x20005207),
    "alpha": (0x40045200, 0x80085203, 0x20005207),
}


@pytest.mark.parametrize("machine", NUMBERS)
def test_ioctl_numbers(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
        importlib.reload(kernel)
        found = (kernel.RNDGETENTCNT, kernel.RNDADDENTROPY, kernel.RNDRESEEDCRNG)
    importlib.reload(kernel)
    assert found == NUMBERS[machine]


def test_the_count_needs_no_privilege(random_fd: int) -> None:
    assert 0 <= kernel.entropy_avail(random_fd) <= 4096
    assert int(in_child(lambda: kernel.entropy_avail(random_fd), nobody=True)) >= 0


@pytest.mark.parametrize(("size_bytes", "bits"), [(0, 1), (32, 257), (32, -1), (1, 9), (4097, 0), (5000, 1)])
def test_a_credit_that_cannot_be_is_refused_here(random_fd: int, size_bytes: int, bits: int) -> None:
    with pytest.raises(ValueError, match=f"^{bits} bits for {size_bytes} bytes$"):
        kernel.add_entropy(random_fd, bytes(size_bytes), bits)


def _as_root_or_refused(ioctl: str, act: Callable[[], object]) -> None:
    if is_root():
        act()
        return
    with pytest.raises(KernelRefused) as caught:
        act()
    assert caught.value.ioctl == ioctl


def test_adding_without_credit(random_fd: int) -> None:
    for size_bytes in (0, 1, 32, kernel.MAX_BYTES):
        content = bytes(size_bytes)
        _as_root_or_refused("RNDADDENTROPY", partial(kernel.add_entropy, random_fd, content, 0))


def test_reseed_takes_effect(random_fd: int) -> None:
    _as_root_or_refused("RNDRESEEDCRNG", lambda: kernel.reseed(random_fd))


@pytest.mark.parametrize(
    ("ioctl", "act"),
    [
        ("RNDADDENTROPY", lambda fd: kernel.add_entropy(fd, bytes(32), 256)),
        ("RNDADDENTROPY", kernel.check_access),
        ("RNDRESEEDCRNG", kernel.reseed),
    ],
)
def test_an_ordinary_user_is_refused(random_fd: int, ioctl: str, act: Callable[[int], None]) -> None:
    said = in_child(lambda: act(random_fd), nobody=True)
    assert said == f"KernelRefused: /dev/random refused {ioctl}: no CAP_SYS_ADMIN"


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes, bytearray]]:
    """Record what is handed to the kernel instead of handing it over; the buffers themselves, too."""
    calls: list[tuple[int, bytes, bytearray]] = []

    def ioctl(_fd: int, number: int, buffer: bytearray) -> int:
        calls.append((number, bytes(buffer), buffer))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return calls


def test_what_the_kernel_is_given(recorded: list[tuple[int, bytes, bytearray]]) -> None:
    content = bytes(range(32))
    kernel.add_entropy(-1, content, 256)
    ((number, given, buffer),) = recorded
    assert number == kernel.RNDADDENTROPY
    # struct rand_pool_info: int entropy_count (bits), int buf_size (bytes), the bytes.
    assert given == struct.pack("=ii", 256, 32) + content
    assert buffer == bytes(40), "it is cleared"


def test_the_buffer_is_cleared_after_a_refusal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    buffers: list[bytearray] = []

    def refuse(_fd: int, _number: int, buffer: bytearray) -> int:
        buffers.append(buffer)
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    with pytest.raises(KernelRefused, match="refused RNDADDENTROPY: Invalid argument"):
        kernel.add_entropy(-1, b"\xff" * 32, 0)
    assert buffers == [bytes(40)]


def test_before_the_crng_is_ready_there_is_nothing_to_reseed(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_ready(*_: object) -> int:
        raise OSError(errno.ENODATA, "No data available")

    monkeypatch.setattr(fcntl, "ioctl", not_ready)
    kernel.reseed(-1)


def test_a_kernel_without_the_ioctl(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> int:
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    monkeypatch.setattr(fcntl, "ioctl", unknown)
    with pytest.raises(KernelRefused, match="refused RNDRESEEDCRNG: Inappropriate ioctl for device"):
        kernel.reseed(-1)


def test_dev_random_that_cannot_be_opened() -> None:
    def out_of_descriptors() -> int:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        return kernel.open_random()

    assert (
        in_child(out_of_descriptors) == f"{FileFailed.__name__}: cannot open /dev/random: Too many open files"
    )


def test_crng_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernel.crng_ready() is True

    def would_block(_size: int, flags: int) -> bytes:
        assert flags == os.GRND_NONBLOCK
        raise BlockingIOError

    monkeypatch.setattr(os, "getrandom", would_block)
    assert kernel.crng_ready() is False


def test_boottime_counts_suspended_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(time, "clock_gettime", lambda clock: asked.append(clock) or 4.5)  # type: ignore[func-returns-value]
    assert kernel.boottime_s() == 4.5
    assert asked == [time.CLOCK_BOOTTIME]


def test_a_terminal_is_kept_for_us_until_it_is_shared() -> None:
    master, slave = os.openpty()
    os.chmod(os.ttyname(slave), 0o666)
    attempt = partial(os.open, os.ttyname(slave), os.O_RDWR | os.O_NOCTTY)
    kernel.tty_exclusive(slave)
    assert f"[Errno {errno.EBUSY}]" in in_child(attempt, nobody=True)
    kernel.tty_shared(slave)
    assert in_child(attempt, nobody=True).isdecimal()
    os.close(master)
    os.close(slave)


def test_what_is_no_terminal_cannot_be_kept(random_fd: int) -> None:
    for act in (kernel.tty_exclusive, kernel.tty_shared):
        with pytest.raises(OSError, match=r"nvalid argument|nappropriate ioctl") as caught:
            act(random_fd)
        assert caught.value.errno in (errno.ENOTTY, errno.EINVAL)
