# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng feed`: the feeder in the foreground, as the service runs it."""

import argparse
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event

from virtrng import config
from virtrng.errors import ExitCode
from virtrng.feeder import source
from virtrng.feeder.daemon import Feeder
from virtrng.keys import find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--key", metavar="KEY", help=f"the key to use: {find.KEY_HELP}")
    parser.add_argument(
        "--simulate",
        metavar="KIND",
        choices=sorted(source.SIMULATED),
        help="a simulated key in this process, for a machine without one; its bytes are mixed in with a "
        f"credit of 0 (KIND: {', '.join(sorted(source.SIMULATED))})",
    )
    parser.add_argument(
        "--keyring",
        metavar="FILE",
        type=Path,
        default=source.DEFAULT_KEYRING,
        help=f"default: {source.DEFAULT_KEYRING}",
    )
    parser.epilog = "It waits for a key when none is there. SIGTERM or Ctrl-C ends it, with a last seed."


def run(arguments: argparse.Namespace) -> int:
    """Feed until told to stop."""
    settings = config.load(arguments.config_file)
    stop = _Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    Feeder(settings.feeder, settings.paths.run_dir, _sources(arguments, settings), stop).run()
    return ExitCode.DONE


class _Stop(Event):
    """An Event that a signal handler may set.

    The lock of an Event is not reentrant: a handler that runs while wait() holds
    it would wait for it for ever. SimpleQueue.put() is reentrant by contract.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stopped = False
        self._wake: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        self._stopped = True
        self._wake.put(None)

    def is_set(self) -> bool:
        return self._stopped

    def wait(self, timeout: float | None = None) -> bool:
        if not self._stopped:
            with suppress(Empty):
                self._wake.get(timeout=timeout)
        return self._stopped


def _sources(arguments: argparse.Namespace, settings: config.Config) -> Callable[[], Iterable[source.Source]]:
    if arguments.simulate:
        return lambda: [source.simulated(arguments.simulate)]
    if arguments.key:
        find.meant_by(arguments.key)  # what can never be there is told now, and not waited for
    return lambda: source.plugged_in(settings.keys, arguments.keyring, arguments.key)
