# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng disable`: take the device away."""

import argparse

from virtrng.cli import guests
from virtrng.domain import preview, reconcile

EXAMPLES = """\
examples:
  virtrng disable web01             taken away, and remembered as not wanted
  virtrng disable --forget web01    taken away without a trace
  virtrng disable --match 'old-*' --dry-run

It records in the guest's metadata that the device is not wanted; 'virtrng enable' clears that.
A random number device that virtrng did not give stays, and one that it replaced is put back."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    guests.add_common_arguments(parser)
    parser.add_argument(
        "--forget", action="store_true", help="leave no trace, not even that it is not wanted"
    )
    parser.epilog = EXAMPLES


def run(arguments: argparse.Namespace) -> int:
    """Disable, or show what that would change."""
    forget = arguments.forget
    if arguments.dry_run:
        return guests.preview(arguments, lambda guest, scope: preview.disable(guest, scope, forget=forget))
    return guests.for_each(
        arguments, "disabled", lambda guest, scope: reconcile.disable(guest, scope, forget=forget)
    )
