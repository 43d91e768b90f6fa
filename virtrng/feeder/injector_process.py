# SPDX-License-Identifier: LGPL-2.1-or-later
"""The injector: a process that holds CAP_SYS_ADMIN, takes seeds from a socket, and does nothing else.

`virtrng feed` runs this file, which is why it imports little: it is resident
beside the process that reads keys for as long as that is.
"""

import errno
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

if not __package__:  # run as a file, without site and environment: nothing is in the path but the library
    sys.path.insert(0, os.path.realpath(f"{__file__}/../../.."))

from virtrng import kernel
from virtrng.errors import FileFailed, KernelRefused
from virtrng.feeder import capabilities as caps

NAME = "virtrng-inject"  # 15 characters at most

SEED_BYTES = 32
CREDITS_BITS = (0, 256)
REQUEST = struct.Struct(f"=i{SEED_BYTES}s")  # bits to credit, seed
ANSWER = struct.Struct("=3i")  # errno of opening /dev/random, of RNDADDENTROPY, of RNDRESEEDCRNG

# A seed every ten seconds is what is wanted of it; this bounds what can be.
INTERVAL_S = 0.1
BURST = 10
# Until the CRNG is ready seeds come as fast as keys give tested blocks; no key gives so many.
INTERVAL_UNREADY_S = 0.01


class Pace:
    """So many at once and then one each interval; who comes early waits."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Begin with `BURST` to spare."""
        self._clock = clock
        self._sleep = sleep
        self._due_s = 0.0

    def wait(self, interval_s: float) -> None:
        """Return when the next one may go."""
        now_s = self._clock()
        self._due_s = max(self._due_s, now_s - (BURST - 1) * interval_s)
        if self._due_s > now_s:
            self._sleep(self._due_s - now_s)
        self._due_s += interval_s


def serve(fd: int, pace: Pace, *, reseed: bool) -> None:
    """Put what comes over the socket `fd` into the pool, until its other end is closed.

    `fd` keeps messages apart (SOCK_SEQPACKET). The first answer, to no request, says
    whether seeding can work at all. What is not exactly a seed with a credit of 0 or
    256 bits is answered with EBADMSG, and does nothing else. `reseed`: each seed takes
    effect at once. Needs CAP_SYS_ADMIN at every seed.
    """
    with suppress(ConnectionError):  # the reader has ended before its answer came
        try:
            random_fd = kernel.open_random()
        except FileFailed as error:
            os.write(fd, ANSWER.pack(_errno_of(error), 0, 0))
            return
        try:
            os.write(fd, ANSWER.pack(0, _errno(kernel.check_access, random_fd), 0))
            _serve(fd, random_fd, pace, reseed=reseed)
        finally:
            os.close(random_fd)


def _serve(fd: int, random_fd: int, pace: Pace, *, reseed: bool) -> None:
    request = bytearray(REQUEST.size + 1)  # one more, for what is too long to show
    ready = False
    while size := os.readv(fd, [request]):
        ready = ready or kernel.crng_ready()
        pace.wait(INTERVAL_S if ready else INTERVAL_UNREADY_S)
        adding, reseeding = _put(random_fd, request, size, reseed=reseed)
        os.write(fd, ANSWER.pack(0, adding, reseeding))


def _put(random_fd: int, request: bytearray, size: int, *, reseed: bool) -> tuple[int, int]:
    """Do what one request says, and clear it; return the errno of each ioctl."""
    (credit_bits,) = struct.unpack_from("=i", request)
    seed = request[REQUEST.size - SEED_BYTES : REQUEST.size]
    try:
        if size != REQUEST.size or credit_bits not in CREDITS_BITS:
            return errno.EBADMSG, 0
        failed = _errno(kernel.add_entropy, random_fd, seed, credit_bits)
        if failed or not reseed:
            return failed, 0
        return 0, _errno(kernel.reseed, random_fd)
    finally:
        for buffer in (seed, request):
            buffer[:] = bytes(len(buffer))


def _errno(act: Callable[..., None], *arguments: object) -> int:
    try:
        act(*arguments)
    except KernelRefused as error:
        return _errno_of(error)
    return 0


def _errno_of(error: Exception) -> int:
    cause = error.__cause__
    return (cause.errno or errno.EIO) if isinstance(cause, OSError) else errno.EIO


def main(argv: Sequence[str]) -> None:
    """Serve: the socket's number, the reader's process id, and whether to reseed, 0 or 1."""
    fd, reader, reseed = (int(word) for word in argv)
    if caps.holds(caps.CAP_SETPCAP):
        caps.empty_bounding_set()
    caps.keep_only(caps.CAP_SYS_ADMIN)
    caps.no_new_privileges()
    caps.withdraw(NAME, signal.SIGKILL)
    if os.getppid() != reader:  # it died before it could take us along
        return
    _close_all_but(fd)
    serve(fd, Pace(), reseed=bool(reseed))


def _close_all_but(fd: int) -> None:
    # The first three lead nowhere, so that nothing else is ever known by these numbers.
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(3, fd)
    os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))


if __name__ == "__main__":
    main(sys.argv[1:])
