# SPDX-License-Identifier: LGPL-2.1-or-later
"""What libvirt tells of guests, and what of it matters to whoever looks after them."""

from enum import Enum


class Happening(Enum):
    """Something was done to a guest."""

    CHANGED = "changed"
    UNDEFINED = "undefined"
    ARRIVED = "arrived"  # by migration: what is left of that may still be under way
    WISHED = "wished"  # by 'virtrng enable', say, whose next step is to give it the device
    REVERTED = "reverted"  # to a snapshot, with the devices that it had then


# libvirt's lifecycle events that are looked into, without VIR_DOMAIN_EVENT_ (libvirt-domain.h), and those
# that mean something else by their detail, without the event's name. A revert has all four of its kind,
# in this order (libvirt 9.0): before the last the definition is the old one already.
EVENTS = {
    "DEFINED": Happening.CHANGED,
    "UNDEFINED": Happening.UNDEFINED,
    "STARTED": Happening.CHANGED,
    "RESUMED": Happening.CHANGED,
    "STOPPED": Happening.CHANGED,
}
DETAILS = {
    ("STARTED", "MIGRATED"): Happening.ARRIVED,
    ("RESUMED", "MIGRATED"): Happening.ARRIVED,
    ("STOPPED", "FROM_SNAPSHOT"): Happening.REVERTED,
    ("STARTED", "FROM_SNAPSHOT"): Happening.REVERTED,
    ("RESUMED", "FROM_SNAPSHOT"): Happening.REVERTED,
    ("SUSPENDED", "FROM_SNAPSHOT"): Happening.REVERTED,
    ("DEFINED", "FROM_SNAPSHOT"): Happening.REVERTED,
}
