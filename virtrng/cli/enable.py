# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng enable`: give guests the device."""

import argparse

from virtrng import config
from virtrng.cli import device, guests
from virtrng.domain import reconcile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    guests.add_common_arguments(parser)
    device.add_arguments(parser)
    parser.epilog = (
        "examples:\n"
        "  virtrng enable web01                 in its definition, and at once if it runs\n"
        "  virtrng enable web01 db01 --dry-run  show what would change\n"
        "  virtrng enable web01 --rate 65536/1000\n\n"
        "A second run changes nothing. A guest that has a virtio-rng already keeps it."
    )


def run(arguments: argparse.Namespace) -> int:
    """Enable, or show what that would change."""
    settings = config.load(arguments.config_file).domains
    asked, scope = device.request(arguments), guests.scope(arguments)
    if arguments.dry_run:
        return guests.preview(
            arguments, lambda guest: reconcile.preview_enable(guest, settings, asked, scope)
        )
    return guests.for_each(arguments, lambda guest: reconcile.enable(guest, settings, asked, scope))
