# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng enable`: give guests the device."""

import argparse

from virtrng import config
from virtrng.cli import device, guests
from virtrng.domain import preview
from virtrng.domain.many import Enabler

EXAMPLES = """\
examples:
  virtrng enable web01                   in its definition, and at once if it runs
  virtrng enable web01 db01 --dry-run    show what would change
  virtrng enable web01 --rate 65536/1000
  virtrng enable --match 'build-*'       all guests whose names match
  virtrng enable --all --inactive        all guests that are off

A second run changes nothing. A guest that has a virtio-rng already keeps it, unless --replace is
given. With --all, --match, --running and --inactive, guests that do not want one ('virtrng disable')
and guests that Nova, oVirt or KubeVirt manage are passed over, and counted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    guests.add_common_arguments(parser)
    device.add_arguments(parser)
    parser.add_argument("--force", action="store_true", help="take a rate that keeps a guest waiting")
    parser.epilog = EXAMPLES


def run(arguments: argparse.Namespace) -> int:
    """Enable, or show what that would change."""
    settings = config.load(arguments.config_file).domains
    asked = device.request(arguments)
    if arguments.dry_run:
        return guests.preview(arguments, lambda guest, scope: preview.enable(guest, settings, asked, scope))
    return guests.for_each(arguments, "enabled", Enabler(settings, asked).enable)
