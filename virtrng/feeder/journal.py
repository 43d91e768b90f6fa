# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the feeder says of keys: each thing once, and again when it is over."""

import logging
from collections.abc import Collection

from virtrng.errors import KeySilent, VirtrngError

log = logging.getLogger(__name__)

# A key that was reset, or pulled and plugged in again, is back by then.
UNFED_SAID_AFTER_S = 10.0


class Troubles:
    """Says what a key has, or why there is none, once however often it happens in a row."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def say(self, about: str, trouble: VirtrngError, *, last: bool) -> None:
        """Say it, unless it is what was last said about `about`; `last`: no key is in use now."""
        # How long a key was silent differs each time, and is no news.
        fact = trouble.code if isinstance(trouble, KeySilent) else str(trouble)
        if self._said.get(about) != fact:
            log.warning("%s%s\n  %s", trouble, "; waiting for a key" if last else "", trouble.remedy)
        self._said[about] = fact

    def over(self, about: str) -> None:
        """Let whatever it has next be news."""
        self._said.pop(about, None)

    def only(self, abouts: Collection[str]) -> None:
        """Let it be over for all others."""
        self._said = {about: fact for about, fact in self._said.items() if about in abouts}


class Fed:
    """Says when no key feeds the pool any more, and when one does again."""

    def __init__(self, now_s: float) -> None:
        self.unfed_since_s: float | None = now_s
        self._again = ""
        self._said = False

    def tell(self, now_s: float, names: Collection[str]) -> None:
        """Tell which keys feed now."""
        if names:
            if self._said and self.unfed_since_s is not None:
                after_s = now_s - self.unfed_since_s
                log.warning("the pool is fed%s by %s, after %d s", self._again, ", ".join(names), after_s)
            self.unfed_since_s, self._said, self._again = None, False, " again"
            return
        if self.unfed_since_s is None:
            self.unfed_since_s = now_s
        unfed_s = now_s - self.unfed_since_s
        if unfed_s >= UNFED_SAID_AFTER_S and not self._said:
            log.warning("no key has fed the pool for %d s; guests go on from the host's pool", unfed_s)
            self._said = True
