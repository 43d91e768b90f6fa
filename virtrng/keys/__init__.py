# SPDX-License-Identifier: LGPL-2.1-or-later
"""The registry: every family of keys that virtrng knows, one row each."""

from virtrng.keys.base import KeyKind
from virtrng.keys.entropykey import ENTROPY_KEY

KEYS: tuple[KeyKind, ...] = (ENTROPY_KEY,)


def kind_named(name: str) -> KeyKind | None:
    """Return the row of that name, None if there is none."""
    return next((kind for kind in KEYS if kind.name == name), None)
