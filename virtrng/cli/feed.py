# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng feed`: the feeder in the foreground, as the service runs it."""

import argparse
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from pathlib import Path

from virtrng import config, service
from virtrng.cli import feed_wait, output
from virtrng.config import Config
from virtrng.errors import ExitCode
from virtrng.feeder import privileges, source
from virtrng.feeder.bell import Bell
from virtrng.feeder.daemon import Feeder
from virtrng.feeder.looker import Looker
from virtrng.keys import find
from virtrng.status import KernelStatus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--key",
        metavar="KEY",
        action="append",
        default=[],
        help=f"use this key alone, or these where it is given several times: {find.KEY_HELP}",
    )
    which.add_argument(
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
    feed_wait.add_arguments(parser)
    parser.epilog = (
        "It feeds from all keys that are plugged in, and waits for one when none is there. SIGTERM or Ctrl-C "
        "ends it, with a last seed."
    )


def run(arguments: argparse.Namespace) -> int:
    """Feed until told to stop, or until it is enough."""
    settings = config.load(arguments.config_file)
    service.log_with_priorities()
    for key in arguments.key:
        find.meant_by(key)  # what can never be there is told now, and not waited for
    if arguments.wait is not None:
        return feed_wait.run(arguments, settings, _feed)
    if arguments.timeout is not None:
        output.note("virtrng feed: error: --timeout is for --wait")
        return ExitCode.USAGE
    _feed(arguments, settings, lambda _given: False)
    return ExitCode.DONE


def _feed(
    arguments: argparse.Namespace, settings: Config, enough: Callable[[KernelStatus], bool]
) -> KernelStatus:
    """Feed until told to stop, or until what was given is `enough`; return what was given."""
    run_dir = settings.paths.run_dir
    with ExitStack() as stack:
        # First of all: it forks, and executes this command anew.
        injector = stack.enter_context(closing(privileges.separate(run_dir, reseed=settings.feeder.reseed)))
        bell = stack.enter_context(closing(Bell()))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: bell.stop())
        looker = stack.enter_context(closing(_looker(arguments, settings, bell)))
        feeder = Feeder(settings.feeder, run_dir, injector, lambda: looker.latest, bell, enough=enough)
        stack.enter_context(_metrics(settings, feeder))
        feeder.run()
        return injector.status


def _looker(arguments: argparse.Namespace, settings: Config, bell: Bell) -> Looker:
    if arguments.simulate:
        one = source.Look((source.simulated(arguments.simulate),))
        return Looker(lambda: one, bell.ring, usb=False)
    by_path = any(isinstance(find.meant_by(key), find.At) for key in arguments.key)
    return Looker(
        lambda: source.look(settings.keys, arguments.keyring, arguments.key), bell.ring, usb=not by_path
    )


def _metrics(settings: Config, feeder: Feeder) -> AbstractContextManager[None]:
    where = service.inherited("metrics") or settings.metrics.listen
    if where is None:
        return nullcontext()
    from virtrng import metrics, scrape  # what they import costs 10 MB

    return scrape.serving(where, metrics.of_feeder(lambda: feeder.latest))
