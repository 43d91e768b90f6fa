# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looking for keys, in a thread of its own: sysfs may keep one waiting for a device that hangs."""

import logging
from collections.abc import Callable
from threading import Thread

from virtrng.feeder.bell import Bell
from virtrng.feeder.source import Look
from virtrng.transport.scan import Plugs

log = logging.getLogger(__name__)

LOOK_S = 2.0
# Where udevd tells what comes and goes; once in a while, for what it may have failed to tell.
LOOK_WITH_UDEV_S = 30.0
END_S = 1.0


class Looker:
    """Looks from when it is made until it is closed."""

    def __init__(self, look: Callable[[], Look], ring: Callable[[], None], *, usb: bool) -> None:
        """`ring` is called when something has changed; `usb`: what changes on USB is all that can."""
        self.latest: Look | None = None
        self._look = look
        self._ring = ring
        self._plugs = _plugs() if usb else None
        self._bell = Bell(*([self._plugs] if self._plugs else []))
        self._failed = False
        self._thread = Thread(target=self._run, name="look for keys", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._bell.stopping:
            self._look_once()
            heard = self._plugs is not None and self._plugs.heard
            self._bell.wait(LOOK_WITH_UDEV_S if heard else LOOK_S)
            if self._plugs:
                self._plugs.drain()

    def _look_once(self) -> None:
        try:
            look = self._look()
            self._failed = False
        except Exception:  # such as a full table of descriptors: the keys that are in use go on
            if not self._failed:
                log.exception("keys cannot be looked for")
            self._failed = True
            return
        if not look.same_as(self.latest):
            self.latest = look
            self._ring()

    def close(self, timeout_s: float = END_S) -> None:
        """End it; where a look takes longer than that, leave it behind."""
        self._bell.stop()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self._bell.close()


def _plugs() -> Plugs | None:
    try:
        return Plugs()
    except OSError as error:
        log.debug("udev does not tell of keys that are plugged in: %s", error)
        return None
