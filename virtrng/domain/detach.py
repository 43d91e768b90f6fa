# SPDX-License-Identifier: LGPL-2.1-or-later
"""Take a device away and see that it is gone."""

import time
from collections.abc import Callable

from virtrng.domain import rng, xml
from virtrng.domain.halves import Half
from virtrng.domain.rng import ALIAS, RngDevice
from virtrng.errors import HypervisorFault

# A guest in firmware or early boot ignores the request to let go of a device,
# silently, and does it when asked again later (libvirt 9.0 with QEMU 7.2).
ASK_AGAIN_AFTER_S = (5.0, 10.0, 20.0)
# One that is paused does nothing: it is asked once, and lets go when it goes on.
ASK_ONCE = (0.1,)
POLL_S = 0.1

Sleep = Callable[[float], None]


def detach(half: Half, element: xml.Element, sleep: Sleep = time.sleep, *, paused: bool = False) -> bool:
    """Detach the device of `element`; return whether it is gone: a definition's goes at once.

    libvirt waits 5 s for a guest to let go (QEMU_UNPLUG_TIMEOUT) and reports success
    either way: what it shows afterwards is the truth. Raises what it raises.
    """
    device = rng.from_element(element)
    for patience_s in ASK_ONCE if paused else ASK_AGAIN_AFTER_S:
        try:
            _ask(half, device, element)
        except HypervisorFault:
            if is_there(half, device):
                raise
            return True
        for _ in range(round(patience_s / POLL_S)):
            if not is_there(half, device):
                return True
            sleep(POLL_S)
    return False


def is_there(half: Half, device: RngDevice) -> bool:
    """Look whether the half has `device` now: ours by its alias, another one by all that it is."""
    now = half.devices()
    if device.ours:
        return any(one.ours for one in now)
    return (device.address, device.model) in [
        (one.address, one.model) for one in now if one.same_service(device)
    ]


def _ask(half: Half, device: RngDevice, element: xml.Element) -> None:
    if device.ours:
        half.guest.detach(ALIAS, live=half.live)
    else:
        half.guest.detach_foreign(xml.text_of(element), live=half.live)
