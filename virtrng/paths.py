# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where our own files lie, in a checkout and when installed."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def data_file(name: str) -> Path:
    """Return a file of the project by its name in the checkout, such as `templates/virtrng.toml.j2`.

    A checkout has it beside the package; an installation below share/virtrng of
    the same prefix.
    """
    beside = PACKAGE.parent / name
    if beside.exists():
        return beside
    return next((path for p in PACKAGE.parents if (path := p / "share/virtrng" / name).exists()), beside)
