# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known of a guest besides its XML."""

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """What a guest is doing, in the words that virsh has for it."""

    RUNNING = "running"
    PAUSED = "paused"
    CRASHED = "crashed"
    BUSY = "busy"
    OCCUPIED = "occupied"  # as 'virsh domcontrol' has it
    OFF = "shut off"


@dataclass(frozen=True, slots=True)
class Standing:
    """What listing all guests tells of each at no extra call."""

    active: bool
    persistent: bool
    saved: bool
    snapshots: bool
