# SPDX-License-Identifier: LGPL-2.1-or-later
"""Options that `virtrng keys` and its verbs share: they may stand before the verb or after it."""

import argparse
from pathlib import Path

from virtrng.feeder.source import DEFAULT_KEYRING

# NB: the verb's parser runs after that of `keys`, and its default would undo what that has read.
_NONE = argparse.SUPPRESS


def add_keyring(parser: argparse.ArgumentParser) -> None:
    """Declare --keyring, without a default."""
    parser.add_argument(
        "--keyring",
        metavar="FILE",
        type=Path,
        default=_NONE,
        help=f"where long-term keys are (default: {DEFAULT_KEYRING})",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare --json, without a default."""
    parser.add_argument("--json", action="store_true", default=_NONE, help="print JSON")
