# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng enable`: give guests the device."""

import argparse
import re

from virtrng import config
from virtrng.cli import guests
from virtrng.config import SAFE_SOURCES, Rate
from virtrng.domain import reconcile
from virtrng.domain.policy import Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    guests.add_common_arguments(parser)
    add_device_arguments(parser)
    parser.epilog = (
        "examples:\n"
        "  virtrng enable web01                 in its definition, and at once if it runs\n"
        "  virtrng enable web01 db01 --dry-run  show what would change\n"
        "  virtrng enable web01 --rate 65536/1000\n\n"
        "A second run changes nothing. A guest that has a virtio-rng already keeps it."
    )


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the device is to be; `virtrng xml` has the same."""
    parser.add_argument(
        "--rate", metavar="BYTES/MS", type=rate, help="what a guest may draw (default: 4096/1000)"
    )
    parser.add_argument(
        "--source",
        metavar="FILE",
        help=f"where QEMU draws from: {' or '.join(SAFE_SOURCES)} (default: the first)",
    )


def rate(text: str) -> Rate:
    """Read BYTES/MS."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not all(0 < int(number) < 2**32 for number in match.groups()):
        raise argparse.ArgumentTypeError(f"'{text}' is not BYTES/MS, two numbers from 1 to 4294967295")
    return Rate(int(match[1]), int(match[2]))


def request(arguments: argparse.Namespace) -> Request:
    """Return what the options ask for."""
    return Request(source=arguments.source, rate=arguments.rate)


def run(arguments: argparse.Namespace) -> int:
    """Enable, or show what that would change."""
    settings = config.load(arguments.config_file).domains
    asked, scope = request(arguments), guests.scope(arguments)
    if arguments.dry_run:
        return guests.preview(
            arguments, lambda guest: reconcile.preview_enable(guest, settings, asked, scope)
        )
    return guests.for_each(arguments, lambda guest: reconcile.enable(guest, settings, asked, scope))
