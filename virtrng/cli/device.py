# SPDX-License-Identifier: LGPL-2.1-or-later
"""The options that say what the device is to be: `virtrng xml` needs them without libvirt."""

import argparse
import re

from virtrng.config import SAFE_SOURCES, Rate
from virtrng.domain.policy import MODELS, Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument(
        "--rate", metavar="BYTES/MS", type=rate, help="what a guest may draw (default: 4096/1000)"
    )
    parser.add_argument(
        "--source",
        metavar="FILE",
        help=f"where QEMU draws from: {' or '.join(SAFE_SOURCES)} (default: the first)",
    )
    parser.add_argument("--model", choices=MODELS, help="how it is plugged in (default: virtio)")
    parser.add_argument(
        "--replace", action="store_true", help="let it take the place of a virtio-rng that is there already"
    )


def rate(text: str) -> Rate:
    """Read BYTES/MS."""
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if not match or not all(0 < int(number) < 2**32 for number in match.groups()):
        raise argparse.ArgumentTypeError(f"'{text}' is not BYTES/MS, two numbers from 1 to 4294967295")
    return Rate(int(match[1]), int(match[2]))


def request(arguments: argparse.Namespace) -> Request:
    """Return what the options ask for."""
    return Request(
        source=arguments.source,
        rate=arguments.rate,
        model=arguments.model,
        replace=arguments.replace,
        force=getattr(arguments, "force", False),  # `virtrng xml` does not have it
    )
