# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that comes from elsewhere, or from a file: what its devices draw from becomes this host's.

libvirt compares what the hook prints with what came, and refuses what differs in more than the host's
side of a device (virDomainRNGDefCheckABIStability, 9.0 and 11.3): only backend and rate change here.
"""

import os
from collections.abc import Callable
from dataclasses import replace

from virtrng.config import DomainSettings
from virtrng.domain import facts, policy, rng, transform, xml
from virtrng.domain.policy import Request
from virtrng.domain.rng import RngDevice


def is_missing(path: str) -> bool:
    """Whether there is surely no such file on this host; where that cannot be told, there may be one."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


def retarget(
    root: xml.Element, settings: DomainSettings, missing: Callable[[str], bool] = is_missing
) -> bool:
    """Bring our device to policy, and any other off a source that is not there; return whether it changed.

    The rate of a device that is not ours stays. With a source that is not there QEMU would not start.
    """
    device = policy.decide(facts.of(root), settings, Request())
    if not isinstance(device, RngDevice):
        return False
    changed = transform.retarget(root, device)
    for element in root.iterfind("devices/rng"):
        present = rng.from_element(element)
        if not present.ours and _file_of(present) and missing(_file_of(present)):
            changed |= rng.retarget(element, replace(present, source=device.source))
    return changed


def _file_of(device: RngDevice) -> str:
    """Return the absolute path that a 'random' backend draws from, else nothing."""
    return device.source if device.source and device.source.startswith("/") else ""
