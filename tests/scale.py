# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small counts for `make test`, full ones for `make test-long`."""

import os

LONG = 25


def scaled(count: int) -> int:
    """Return `count`, many times over where VIRTRNG_LONG is set."""
    return count * (LONG if os.environ.get("VIRTRNG_LONG") else 1)
