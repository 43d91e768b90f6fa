# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is looked at before a guest is touched, and what its owner should know afterwards."""

from collections.abc import Sequence
from functools import lru_cache

from virtrng.config import SAFE_SOURCES
from virtrng.domain import facts, policy, xml
from virtrng.domain.facts import Bus, Facts
from virtrng.domain.halves import Half, Scope
from virtrng.domain.hypervisor import Guest
from virtrng.domain.rng import RngDevice
from virtrng.domain.standing import State
from virtrng.errors import DomainBusy, Refused

FULL = "every slot of its PCI bus is in use"
NO_PORT = "no pcie-root-port is free"
LAST_PORT = "its last free pcie-root-port is left to whatever else is plugged in"
ON_ROOT_COMPLEX = "its device is on the root complex, which gives none while it runs"


def obstacle(half: Half, remove: Sequence[RngDevice], add: Sequence[RngDevice], scope: Scope) -> str | None:
    """Say why a running guest cannot lose and gain these devices now; None if it can."""
    now = half.before
    if not now.hotplug:
        return f"its {now.bus.value} bus takes and gives no device while it runs"
    if risky := next((device for device in remove if not device.ours and not _safe(device)), None):
        return f"QEMU may not survive the loss of its {risky.source or risky.backend} device"
    if now.bus is not Bus.PCIE:
        return FULL if now.full and not remove else None
    if any(device.address and device.address.is_on_root_complex for device in remove):
        return ON_ROOT_COMPLEX
    if any(device.model == "virtio-transitional" for device in add):
        return "a transitional device needs a slot of conventional PCI"
    return None if remove else _no_port(half, scope)


def _no_port(half: Half, scope: Scope) -> str | None:
    if half.before.free_ports == 0:
        return NO_PORT
    spare = half.before.free_ports > 1 or scope.named or not half.guest.persistent
    return None if spare else LAST_PORT


def _safe(device: RngDevice) -> bool:
    """Whether QEMU survives its unplugging: an EGD device with a request pending may crash 7.2."""
    return device.backend == "builtin" or device.source in SAFE_SOURCES


def check_room(guest: Guest, now: Facts) -> None:
    """Raise Refused where a definition has no place for one more device, which libvirt tells in riddles."""
    if now.full:
        bridge = "<controller type='pci' model='pci-bridge'/>"
        raise Refused(guest.name, FULL, f"'virsh edit {guest.name}': take a device out, or add {bridge}")


def port_remedy(name: str, why: str) -> str | None:
    """Say how a guest comes to a free port, where it is that which it lacks."""
    if why == NO_PORT:
        return (
            "one more <controller type='pci' model='pcie-root-port'/> by 'virsh edit "
            f"{name}' is a free port from its next start"
        )
    return f"'virtrng enable {name}' takes it" if why == LAST_PORT else None


def state_of(guest: Guest) -> State:
    """Return what a running guest is doing. Raises DomainBusy where nothing may be changed meanwhile."""
    state = guest.state()
    if state is State.OCCUPIED:
        raise DomainBusy(guest.name, "its QEMU does not answer")
    if state is State.BUSY:
        raise DomainBusy(guest.name, "a start, save, snapshot or migration is under way")
    return state


def check_capabilities(guest: Guest, now: Facts, device: RngDevice) -> None:
    """Raise Refused where this host's QEMU does not have the device."""
    told = guest.capabilities(now.emulator, now.arch, now.machine, now.type)
    if told is not None and (lacking := lacks(told, device.model, device.backend)):
        raise Refused(
            guest.name,
            f"{now.emulator or 'this QEMU'} has no {lacking}",
            "install a QEMU that has it: 'virsh domcapabilities' shows it under <rng>",
        )


@lru_cache(maxsize=16)
def lacks(capabilities: bytes, model: str, backend: str) -> str | None:
    """Return what of a device a QEMU with these domain capabilities does not have, None if it has all."""
    element = _inside(capabilities, "domainCapabilities/devices/rng")
    if element is None:  # libvirt before 5.7 does not tell
        return None
    if element.get("supported") != "yes":
        return "virtio-rng"
    for name, wanted in (("model", model), ("backendModel", backend)):
        values = [value.text for value in element.iterfind(f"enum[@name='{name}']/value")]
        if values and wanted not in values:
            return f"{wanted} among its rng {'models' if name == 'model' else 'backends'}"
    return None


def remembered(guest: Guest, device: RngDevice | None) -> list[str]:
    """Say where the guest keeps its old devices: in a saved image, in snapshots."""
    said = []
    image = guest.saved_image()
    if image is not None and _differs(xml.parse(image), device):
        said.append(
            "its saved image has its old devices, and its next start restores that;"
            f" 'virsh managedsave-remove {guest.name}' gives the image up"
        )
    count = sum(_differs(one, device) for one in _snapshots(guest))
    if count:
        which = "one of its snapshots has" if count == 1 else f"{count} of its snapshots have"
        said.append(
            f"{which} its old devices, and a revert brings them back: then run the same command again"
            ' (where require = "refuse", libvirt before 10.5 cannot revert to one without a virtio-rng)'
        )
    return said


def bare_snapshots(guest: Guest) -> int:
    """Count its snapshots that have no virtio-rng at all."""
    return sum(not facts.of(one).ours and not facts.of(one).foreign for one in _snapshots(guest))


def _snapshots(guest: Guest) -> list[xml.Element]:
    """Return the domains that its snapshots would bring back."""
    found = [_inside(snapshot, "domainsnapshot/domain") for snapshot in guest.snapshots()]
    return [one for one in found if one is not None]


def _inside(document: bytes, path: str) -> xml.Element | None:
    """Find an element in a document that is no <domain>; libvirt writes them without a declaration."""
    return xml.parse(b"<domain>%b</domain>" % document).find(path)


def _differs(root: xml.Element, device: RngDevice | None) -> bool:
    return (facts.of(root).ours is None) != (device is None)


def expectations(device: RngDevice) -> list[str]:
    """Say what a guest has to expect of a low rate."""
    warning = policy.slow(device.rate)
    return [warning] if warning else []
