# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same for many, several at a time; what came of each is told in their order."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Generic, TypeVar

from virtrng.cli import output, signals
from virtrng.errors import VirtrngError

T = TypeVar("T")
R = TypeVar("R")

# libvirtd takes one call more of one client at the same time (max_client_requests in libvirtd.conf, 5). On
# two cores, four took a fifth to a third off the time of one after the other, and six hardly more.
AT_ONCE = 4

# What is told of instead of the number of an item that is done.
_THREAD_ENDED = -1
_INTERRUPTED = -2
# A signal that comes just before the wait for the next to be told of does not interrupt that wait.
_SIGNAL_MISSED_FOR_S = 0.2


class Several(Generic[T, R]):
    """Does `act` to many items, AT_ONCE of them at a time, until there are no more or an error is `fatal`.

    They are begun in their order, and those that are under way when it ends are
    finished: what was begun is always the first so many. Ctrl-C ends it likewise,
    and `interrupted` tells of it; a second one waits for nothing.
    """

    def __init__(self, act: Callable[[T], R], fatal: type[VirtrngError]) -> None:
        """Begin nothing yet."""
        self.interrupted = False
        self._act = act
        self._fatal = fatal
        self._ending = False
        self._taking = Lock()
        self._results: dict[int, R | Exception] = {}
        # A SimpleQueue: a signal's handler may put into it whatever it interrupts.
        self._told: SimpleQueue[int] = SimpleQueue()

    def each(
        self, items: Sequence[T], move_on: Callable[[], None]
    ) -> Generator[R | VirtrngError, None, None]:
        """Yield for each item that was begun, in their order, what `act` returned, or its error.

        `move_on` is called as each is done, whatever their order. A single item is
        done by the caller's own thread, and Ctrl-C interrupts it. Raises what else
        `act` raises, and KeyboardInterrupt. To be closed where it is left early.
        """
        if len(items) > 1:
            yield from self._by_threads(items, move_on)
            return
        for item in items:
            try:
                result: R | VirtrngError = self._act(item)
            except VirtrngError as error:
                result = error
            move_on()
            yield result

    def _by_threads(
        self, items: Sequence[T], move_on: Callable[[], None]
    ) -> Generator[R | VirtrngError, None, None]:
        numbered = enumerate(items)
        # As daemons: after a second Ctrl-C the interpreter does not wait for them either.
        threads = [
            Thread(target=self._work, args=(numbered,), daemon=True) for _ in range(min(AT_ONCE, len(items)))
        ]
        with signals.first_interrupt(self._interrupt):
            try:
                for thread in threads:
                    thread.start()
                yield from self._in_order(len(threads), move_on)
            except KeyboardInterrupt:
                threads.clear()
                raise
            finally:
                self._ending = True
                for thread in threads:
                    thread.join()

    def _interrupt(self) -> None:
        self._ending = self.interrupted = True
        self._told.put(_INTERRUPTED)

    def _work(self, numbered: Iterator[tuple[int, T]]) -> None:
        while taken := self._next(numbered):
            number, item = taken
            try:
                result: R | Exception = self._act(item)
            except Exception as error:  # noqa: BLE001  a bug's is raised where the results are told
                result = error
                if isinstance(error, self._fatal) or not isinstance(error, VirtrngError):
                    self._ending = True
            self._results[number] = result
            self._told.put(number)
        self._told.put(_THREAD_ENDED)

    def _next(self, numbered: Iterator[tuple[int, T]]) -> tuple[int, T] | None:
        with self._taking:
            return None if self._ending else next(numbered, None)

    def _wait(self) -> int:
        while True:
            with suppress(Empty):
                return self._told.get(timeout=_SIGNAL_MISSED_FOR_S)

    def _in_order(self, threads: int, move_on: Callable[[], None]) -> Generator[R | VirtrngError, None, None]:
        turn = 0
        while threads:
            told = self._wait()
            if told == _THREAD_ENDED:
                threads -= 1
            elif told == _INTERRUPTED:
                output.note("virtrng: what is under way is finished first; Ctrl-C again does not wait")
            else:
                move_on()
            while turn in self._results:
                result = self._results.pop(turn)
                if isinstance(result, Exception) and not isinstance(result, VirtrngError):
                    raise result
                yield result
                turn += 1
