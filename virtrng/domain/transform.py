# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changes of a <domain> tree. Pure, and idempotent: each does nothing where nothing is to be done."""

from dataclasses import replace

from virtrng.config import DomainSettings
from virtrng.domain import facts, rng, xml
from virtrng.domain.facts import Bus, Facts, Wish
from virtrng.domain.policy import Request, decide
from virtrng.domain.rng import Address, RngDevice

# Slots of bus 0 that QEMU or firmware may take without an <address> telling of
# it: 0x01 (video on q35), 0x1a to 0x1f (USB, SATA, LPC).
_IMPLICIT_SLOTS = frozenset({0x00, 0x01, *range(0x1A, 0x20)})


def placed(device: RngDevice, guest: Facts) -> RngDevice:
    """Return `device` with its place in a definition: on a PCIe machine a free slot of the root complex.

    Left to itself libvirt puts it on the last spare pcie-root-port, and the
    owner's next hotplug finds none. From the top down, since libvirt fills from below.
    """
    free = [slot for slot in range(0x20) if slot not in guest.slots_used | _IMPLICIT_SLOTS]
    if guest.bus is not Bus.PCIE or not free:
        return device
    return replace(device, address=Address.on_root_complex(free[-1]))


def add(root: xml.Element, device: RngDevice) -> None:
    """Append `device` to the devices of `root`, unless one of its alias is there."""
    if device.alias and any(present.alias == device.alias for present in facts.of(root).rngs):
        return
    xml.append(_child(root, "devices"), rng.to_element(device))


def remove(root: xml.Element) -> None:
    """Take our device out of `root`."""
    for element in root.findall("devices/rng"):
        if rng.from_element(element).ours:
            xml.remove(element)


def retarget(root: xml.Element, device: RngDevice) -> bool:
    """Give our devices in `root` the backend and the rate of `device`; return whether anything changed."""
    ours = [element for element in root.iterfind("devices/rng") if rng.from_element(element).ours]
    changed = [rng.retarget(element, device) for element in ours]
    return any(changed)


def record(root: xml.Element, wish: Wish | None) -> None:
    """Make `wish` the one that the metadata of `root` holds; None removes it."""
    old = root.find(f"metadata/{xml.WISH}")
    if old is not None:
        xml.remove(old)
    if wish is not None:
        xml.append(_child(root, "metadata"), xml.new_wish(facts.wish_attributes(wish)))


def filtered(root: xml.Element, settings: DomainSettings, request: Request) -> str | None:
    """Give a definition on its way to libvirt the device that policy wants, where it has no virtio-rng.

    Return None when it was given one, else in words why it was not.
    """
    guest = facts.of(root)
    if guest.wish and not guest.wish.wanted:
        return "its own metadata say that it wants none"
    if guest.ours or guest.foreign:
        return f"already has a virtio-rng ({guest.ours or guest.foreign})"
    device = decide(guest, settings, request)
    if not isinstance(device, RngDevice):
        return device.why
    # An address in a document that has none would stand in the way of libvirt's own placing.
    add(root, placed(device, guest) if guest.addressed else device)
    return None


def retargeted(root: xml.Element, settings: DomainSettings) -> bool:
    """Bring our devices' source and rate to this host's policy; return whether anything changed."""
    device = decide(facts.of(root), settings, Request())
    if not isinstance(device, RngDevice):
        return False
    return retarget(root, device)


def _child(root: xml.Element, tag: str) -> xml.Element:
    child = root.find(tag)
    if child is None:
        child = xml.new(tag)
        xml.append(root, child)
    return child
