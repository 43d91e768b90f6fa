# SPDX-License-Identifier: LGPL-2.1-or-later
"""Somebody else may take away what the watcher gives, again and again: then it stops giving."""

from collections.abc import Iterable, Mapping

WITHIN_S = 3600.0
REMOVALS = 3


class Contests:
    """Remembers where each guest's device was seen, when it was found gone, and from where it stays gone."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._seen: dict[str, set[str]] = {}
        self._removed_s: dict[str, list[float]] = {}
        self._contested: dict[str, set[str]] = {}

    def observe(self, uuid: str, present: Mapping[str, bool], now_s: float) -> bool:
        """Note where a guest's device is; return whether it is contested: removed 3 times within an hour.

        `present` has a name for each place where it could be: a guest that runs again is another place.
        It is contested until the device is back in the place that it was removed from last, because its
        owner has given it, or until there is no such place any more.
        """
        gone = {place for place, there in present.items() if not there}
        if self._contested.get(uuid, set()) & gone:
            return True
        removed_s = [] if self._contested.pop(uuid, None) else self._removed_s.get(uuid, [])
        taken = self._seen.get(uuid, set()) & gone
        if taken:
            removed_s = [*(one for one in removed_s if now_s - one < WITHIN_S), now_s]
        self._removed_s[uuid] = removed_s
        self._seen[uuid] = present.keys() - gone
        if len(removed_s) < REMOVALS:
            return False
        self._contested[uuid] = taken
        return True

    def given(self, uuid: str, places: Iterable[str]) -> None:
        """Note where the device is now."""
        self._seen.setdefault(uuid, set()).update(places)

    def forget(self, uuid: str) -> None:
        """A guest that is gone, or defined anew, was not contested."""
        for known in (self._seen, self._removed_s, self._contested):
            known.pop(uuid, None)
