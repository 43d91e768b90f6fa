# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng watch`: give guests the device as libvirt tells of them, as the service runs it."""

import argparse
import os
import signal
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from virtrng import config, service
from virtrng.cli import guests, output
from virtrng.config import Config
from virtrng.domain import manage
from virtrng.domain.hypervisor import DEFAULT_URI, Hypervisor
from virtrng.domain.steward import Steward
from virtrng.domain.watch import Watcher
from virtrng.errors import ExitCode

EPILOG = """\
Which guests it looks after is in [domains] of the configuration: manage = "new" (the default) means those
that were not there when it first ran, "all" all of them, "off" none. A guest's own wish ('virtrng enable',
'virtrng disable') comes before that; guests that Nova, oVirt or KubeVirt manage are left alone.
SIGHUP has it read the configuration anew and look at every guest; SIGTERM or Ctrl-C ends it.

examples:
  virtrng watch                     until Ctrl-C
  virtrng watch --once              look at every guest now, and end
  virtrng watch --once --dry-run    show what that would change"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--once", action="store_true", help="look at every guest once, and end")
    parser.add_argument("--dry-run", action="store_true", help="with --once: print what it would change")
    parser.add_argument("--json", action="store_true", help="with --once: print JSON")
    parser.epilog = EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Watch until told to stop, or look once."""
    settings = config.load(arguments.config_file)
    if arguments.once:
        return _once(arguments, settings)
    if arguments.dry_run or arguments.json:
        output.note("virtrng watch: error: --dry-run and --json are for --once")
        return ExitCode.USAGE
    service.log_with_priorities()
    uri = arguments.connect or os.environ.get("LIBVIRT_DEFAULT_URI") or DEFAULT_URI
    watcher = Watcher(uri, settings, lambda: config.load(arguments.config_file))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watcher.stop())
    signal.signal(signal.SIGHUP, lambda *_: watcher.reload())
    with _metrics(settings, watcher):
        watcher.run()
    return ExitCode.DONE


def _once(arguments: argparse.Namespace, settings: Config) -> int:
    with Hypervisor(arguments.connect, readonly=arguments.dry_run) as connection:
        remembered = _remembered(connection, settings.paths.state_dir, dry_run=arguments.dry_run)
    steward = Steward(settings.domains, remembered)
    everything = {"domains": [], "match": [], "all": True, "running": False, "inactive": False}
    arguments.__dict__.update(everything | {"config": False, "live": False})
    if arguments.dry_run:
        return guests.preview(arguments, lambda guest, _: steward.difference(guest))
    return guests.for_each(arguments, "given the device", lambda guest, _: steward.look_after(guest).outcome)


def _remembered(connection: Hypervisor, state_dir: Path, *, dry_run: bool) -> frozenset[str]:
    """Return the guests that were there before the watcher; now, where this is its first run."""
    host = manage.host_uuid(connection.capabilities())

    def present() -> frozenset[str]:
        return frozenset(guest.uuid for guest in connection.guests())

    if not dry_run:
        return manage.remember(state_dir, host, present)
    remembered = manage.recall(state_dir, host)
    if remembered is None:
        output.note('it has not run here yet: what is here now counts as there before it (manage = "new")')
        return present()
    return remembered


def _metrics(settings: Config, watcher: Watcher) -> AbstractContextManager[None]:
    where = service.inherited("metrics") or settings.metrics.watch_listen
    if where is None:
        return nullcontext()
    from virtrng import metrics, scrape  # what they import costs 10 MB

    return scrape.serving(where, metrics.of_watcher(lambda: watcher.latest))
