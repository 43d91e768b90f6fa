# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng status`: what feeds the pool, when it last did, and what the guests have."""

import argparse

from virtrng import config
from virtrng.cli import output, status_follow, status_guests, status_host
from virtrng.cli.status_guests import Guests
from virtrng.cli.status_host import Host
from virtrng.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--follow", action="store_true", help="go on showing it until Ctrl-C; into a pipe, what changes"
    )
    how.add_argument(
        "--check",
        action="store_true",
        help="print only what is not as it should be, a line each; exit status 1 if anything is",
    )
    parser.add_argument("--json", action="store_true", help="print JSON; with --follow a line per change")


def run(arguments: argparse.Namespace) -> int:
    """Look at everything, change nothing."""
    settings = config.load(arguments.config_file)
    if arguments.follow:
        return status_follow.run(settings, arguments.connect, document if arguments.json else None)
    host = status_host.look(settings)
    if arguments.check:
        return _check(host, status_guests.look(arguments.connect, settings), as_json=arguments.json)
    if host.broken:
        raise host.broken
    if arguments.json:
        output.document(document(host, status_guests.look(arguments.connect, settings)))
        return ExitCode.DONE
    output.facts(status_host.facts(host))
    # Only now: a libvirt that takes its time keeps nobody from the answer above.
    for text in status_guests.look(arguments.connect, settings).lines():
        output.line(text)
    return ExitCode.DONE


def document(host: Host, guests: Guests) -> dict[str, object]:
    """Return what --json prints."""
    return status_host.document(host) | guests.document() | {"problems": _problems(host, guests)}


def _problems(host: Host, guests: Guests) -> list[str]:
    return [*status_host.problems(host), *guests.problems()]


def _check(host: Host, guests: Guests, *, as_json: bool) -> int:
    problems = _problems(host, guests)
    if as_json:
        output.document(document(host, guests))
    elif problems:
        for problem in problems:
            output.line(problem)
    else:
        (fed, *_) = status_host.facts(host)
        output.line(f"ok: fed {fed.text.removeprefix('yes, ')}; {output.plural(len(guests.found), 'guest')}")
    return ExitCode.FAILED if problems else ExitCode.DONE
