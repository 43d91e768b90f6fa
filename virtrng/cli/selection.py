# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which guests a command is about: those that are named, or that are met by a wider net."""

import argparse
from dataclasses import dataclass
from fnmatch import fnmatchcase

from virtrng.domain.hypervisor import Guest, Hypervisor
from virtrng.errors import NoGuestMatches, NoGuestNamed, VirtrngError


@dataclass(frozen=True, slots=True)
class Chosen:
    """A guest, and whether it was named."""

    guest: Guest
    named: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the ways of naming guests."""
    parser.add_argument("domains", metavar="DOMAIN", nargs="*", help="a guest's name, UUID or id")
    parser.add_argument("--all", action="store_true", help="all guests")
    parser.add_argument(
        "--match", metavar="GLOB", action="append", default=[], help="guests whose names match; repeatable"
    )
    parser.add_argument("--running", action="store_true", help="of these (default: of all) those that run")
    parser.add_argument(
        "--inactive", action="store_true", help="of these (default: of all) those that do not"
    )


def check(arguments: argparse.Namespace) -> None:
    """Raise NoGuestNamed where nothing says which guests."""
    if not (arguments.domains or arguments.match or arguments.all or arguments.running or arguments.inactive):
        raise NoGuestNamed


def choose(
    hypervisor: Hypervisor, arguments: argparse.Namespace
) -> tuple[list[Chosen], list[tuple[str, VirtrngError]]]:
    """Return the guests, each once, those that were named first; and what could not be found, and why."""
    chosen: dict[str, Chosen] = {}
    missing: list[tuple[str, VirtrngError]] = []
    for name in dict.fromkeys(arguments.domains):
        try:
            guest = hypervisor.guest(name)
        except VirtrngError as error:
            missing.append((name, error))
        else:
            chosen.setdefault(guest.uuid, Chosen(guest, named=True))
    wider = arguments.all or not (arguments.domains or arguments.match)
    guests = hypervisor.guests() if wider or arguments.match else []
    for glob in dict.fromkeys(arguments.match):
        matching = [guest for guest in guests if fnmatchcase(guest.name, glob)]
        if not matching:
            missing.append((glob, NoGuestMatches(glob, hypervisor.uri)))
        for guest in matching:
            chosen.setdefault(guest.uuid, Chosen(guest, named=False))
    for guest in guests if wider else []:
        chosen.setdefault(guest.uuid, Chosen(guest, named=False))
    return [one for one in chosen.values() if _is_in_state(one.guest, arguments)], missing


def _is_in_state(guest: Guest, arguments: argparse.Namespace) -> bool:
    if arguments.running == arguments.inactive:
        return True
    return guest.active is bool(arguments.running)
