# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng disable`: take the device away."""

import argparse

from virtrng.cli import guests
from virtrng.domain import reconcile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    guests.add_common_arguments(parser)
    parser.add_argument(
        "--forget", action="store_true", help="leave no trace, not even that it is not wanted"
    )
    parser.epilog = (
        "It records in the guest's metadata that the device is not wanted; 'virtrng enable' clears that.\n"
        "A random number device that virtrng did not give stays."
    )


def run(arguments: argparse.Namespace) -> int:
    """Disable, or show what that would change."""
    scope, forget = guests.scope(arguments), arguments.forget
    if arguments.dry_run:
        return guests.preview(arguments, lambda guest: reconcile.preview_disable(guest, scope, forget=forget))
    return guests.for_each(arguments, lambda guest: reconcile.disable(guest, scope, forget=forget))
