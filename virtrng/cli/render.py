# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng render`: print one template."""

import argparse

from virtrng import config, render
from virtrng.cli import output
from virtrng.errors import ExitCode, NoSuchTemplate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the name."""
    parser.add_argument("name", metavar="NAME", help="one of those below")
    width = max(map(len, render.NAMES)) + 2
    places = [f"  {name:<{width}}{place}" for name, place in render.TEMPLATES.items()]
    parser.epilog = "\n".join(
        [
            "names, and the files that they are for:",
            *places,
            f"  {render.RNG:<{width}}the device that guests get, for 'virsh attach-device'",
            "",
            "example:",
            "  virtrng render virtrng-feeder.service > /etc/systemd/system/virtrng-feeder.service",
        ]
    )


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    if arguments.name not in render.NAMES:
        raise NoSuchTemplate(arguments.name, ", ".join(render.NAMES))
    output.line(render.render(arguments.name, config.load(arguments.config_file)).rstrip("\n"))
    return ExitCode.DONE
