# SPDX-License-Identifier: LGPL-2.1-or-later
"""The last step: a seed goes into the kernel's pool, and takes effect.

Two processes share it, over a socketpair that keeps messages apart. The one that
may seed is in injector_process; an `Injector` is the other end, in the process that
reads keys and may do nothing. Every request has an answer and none is ever
repeated: of a seed whose answer was lost nobody can tell whether it was credited,
so it counts as given.
"""

import os
import select
import socket

from virtrng import kernel
from virtrng.entropy.conditioner import Seed
from virtrng.errors import FileFailed, InjectorLost
from virtrng.feeder.injector_process import ANSWER, REQUEST
from virtrng.status import KernelStatus

BEGIN_S = 60.0  # an interpreter starts, on a host that is busy booting
ANSWER_S = 5.0  # it answers within a tenth of a second
ENDING_S = 1.0


class Injector:
    """The reader's end: hands seeds over, and counts what went in. Needs no privilege."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        """Take the reader's end and the injector's process id. Raises FileFailed.

        Both are its own from now on: it closes the one and reaps the other.
        """
        self._connection = connection
        self._pid = pid
        self._ending: str | None = None  # how it ended, once that is known
        try:
            self._random_fd = kernel.open_random()
        except FileFailed:
            connection.close()
            self._reap()
            raise
        self._seeds = 0
        self._seeded_bits = 0
        self._bytes_passed = 0
        self._last: tuple[float, float] | tuple[None, None] = (None, None)

    def began(self) -> None:
        """Wait until the injector says that it can work. Raises FileFailed, KernelRefused or InjectorLost."""
        self._take_answer(BEGIN_S)

    def inject(self, seed: Seed, *, made_of_bytes: int, now: float) -> None:
        """Have `seed` mixed in with its credit; `now` is Unix time.

        Raises KernelRefused, or InjectorLost when no answer comes; the seed may then
        have been given, and must not be given again.
        """
        request = bytearray(REQUEST.size)
        REQUEST.pack_into(request, 0, seed.entropy_bits, seed.data)
        try:
            self._connection.send(request)
        except OSError as error:
            raise self._lost() from error
        finally:
            request[:] = bytes(len(request))
        self._take_answer(ANSWER_S)
        self._seeds += 1
        self._seeded_bits += seed.entropy_bits
        self._bytes_passed += made_of_bytes
        self._last = (now, kernel.boottime_s())

    def check(self) -> None:
        """Look, without waiting, whether the injector is still there. Raises InjectorLost."""
        try:
            said = self._connection.recv(ANSWER.size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._lost() from error
        raise self._lost("spoke unasked" if said else None)

    @property
    def status(self) -> KernelStatus:
        """What was given so far."""
        return KernelStatus(
            seeds=self._seeds,
            seeded_bits=self._seeded_bits,
            bytes_passed=self._bytes_passed,
            last_seed_at=self._last[0],
            last_seed_boottime_s=self._last[1],
            entropy_avail_bits=kernel.entropy_avail(self._random_fd),
            crng_ready=kernel.crng_ready(),
        )

    def close(self) -> None:
        """End the injector, which takes first what it was sent."""
        self._connection.close()
        os.close(self._random_fd)
        self._reap()

    def _take_answer(self, timeout_s: float) -> None:
        try:
            if not _readable(self._connection.fileno(), timeout_s):
                raise self._lost(f"did not answer within {timeout_s:g} s")
            answer = self._connection.recv(ANSWER.size)
        except (OSError, ValueError) as error:  # ValueError: closed at an earlier loss
            raise self._lost() from error
        if len(answer) != ANSWER.size:
            raise self._lost()
        opening, adding, reseeding = ANSWER.unpack(answer)
        if opening:
            raise FileFailed("/dev/random", "open", os.strerror(opening))
        if adding:
            raise kernel.refused("RNDADDENTROPY", OSError(adding, os.strerror(adding)))
        if reseeding:
            raise kernel.refused("RNDRESEEDCRNG", OSError(reseeding, os.strerror(reseeding)))

    def _lost(self, why: str | None = None) -> InjectorLost:
        # An answer that comes after all would be taken for that to another request.
        self._connection.close()
        return InjectorLost(why or self._reap())

    def _reap(self) -> str:
        """Wait for the injector, which is about to end, within reason; return what to say of it."""
        if self._ending is None:
            self._ending = _reap(self._pid)
        return self._ending


def _reap(pid: int) -> str:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # somebody has reaped it
        return "has ended"
    try:
        if not _readable(pidfd, ENDING_S):
            return "has ended"
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return "has ended"
    finally:
        os.close(pidfd)
    return f"was killed by signal {-code}" if code < 0 else f"has ended with status {code}"


def _readable(fd: int, timeout_s: float) -> bool:
    poll = select.poll()  # select(2) would refuse descriptors above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
