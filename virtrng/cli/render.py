# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng render`: print one template."""

import argparse

from virtrng import config, render
from virtrng.cli import output
from virtrng.errors import ExitCode, NoSuchTemplate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the name."""
    parser.add_argument("name", metavar="NAME", help=", ".join(render.NAMES))
    parser.epilog = (
        "example:\n  virtrng render virtrng-feeder.service > /etc/systemd/system/virtrng-feeder.service"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    if arguments.name not in render.NAMES:
        raise NoSuchTemplate(arguments.name, ", ".join(render.NAMES))
    output.line(render.render(arguments.name, config.load(arguments.config_file)).rstrip("\n"))
    return ExitCode.DONE
