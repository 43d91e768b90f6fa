# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which keys wait for their keyring to change: they are left alone, so that they can be paired meanwhile."""

import math
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from virtrng.errors import BadKeyring, NoLongTermKey, VirtrngError, WrongLongTermKey

# A key with another long-term key stays so until somebody pairs it: no reset storm. But the keyring may
# be right after all, and what failed to verify may have been noise.
WRONG_KEY_RETRY_S = 30.0

# Device, inode, size, change time, owner, group and mode of a file, or none of them if it is not there.
_Looks = tuple[int, ...] | None
_UNKNOWN: _Looks = (-1,)


@dataclass(frozen=True, slots=True)
class _Wait:
    """What `keyring` looked like when the key was last opened, and until when it is left alone."""

    keyring: Path
    looks: _Looks
    until_s: float


class Keyrings:
    """What each key, by its name, was last found to lack; `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waits: dict[str, _Wait] = {}

    def forget_all_but(self, names: Collection[str]) -> None:
        """Keep in mind these keys alone: one that is plugged in anew is looked at anew."""
        self._waits = {name: wait for name, wait in self._waits.items() if name in names}

    def waits(self, name: str) -> bool:
        """Whether nothing has changed that could make opening this key worth while; ask before each time."""
        wait = self._waits.get(name)
        if wait is None:
            return False
        looks = _looks(wait.keyring)
        if looks == wait.looks and self._clock() < wait.until_s:
            return True
        # NB: as it is before the key is opened; whatever changes while it is open is news the next time.
        self._waits[name] = replace(wait, looks=looks)
        return False

    def note(self, name: str, trouble: VirtrngError) -> bool:
        """Remember why the key could not be used, if its keyring is why; return whether it is."""
        known = self._waits.pop(name, None)
        if not isinstance(trouble, NoLongTermKey | BadKeyring | WrongLongTermKey):
            return False
        keyring = Path(trouble.keyring)
        if known is not None and known.keyring == keyring:
            looks = known.looks
        elif isinstance(trouble, WrongLongTermKey):
            looks = _looks(keyring)
        else:  # it may have changed since it was read, so one more look
            looks = _UNKNOWN
        retry_s = WRONG_KEY_RETRY_S if isinstance(trouble, WrongLongTermKey) else math.inf
        self._waits[name] = _Wait(keyring, looks, self._clock() + retry_s)
        return True


def _looks(keyring: Path) -> _Looks:
    try:
        found = os.stat(keyring)
    except OSError:
        return None
    # The change time rather than that of modification: nobody can set it, and chmod is a change too.
    return (found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns, found.st_uid, found.st_gid,
            found.st_mode)  # fmt: skip
