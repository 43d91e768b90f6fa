# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changes of a <domain> tree. Pure, and idempotent: each does nothing where nothing is to be done."""

from collections.abc import Sequence
from dataclasses import replace

from virtrng.config import SAFE_SOURCES, DomainSettings
from virtrng.domain import facts, rng, xml
from virtrng.domain.facts import Bus, Facts, Wish
from virtrng.domain.policy import Refusal, Request, decide, replaces
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


def record(root: xml.Element, wish: Wish | None, replaced: Sequence[xml.Element] = ()) -> None:
    """Make `wish` the one that the metadata of `root` holds, and `replaced` what `kept` returns.

    None removes both.
    """
    old = root.find(f"metadata/{xml.WISH}")
    if wish is None:
        if old is not None:
            xml.remove(old)
        return
    new = xml.new_wish(facts.wish_attributes(wish), [xml.compact(element) for element in replaced])
    if old is None:
        xml.append(_child(root, "metadata"), new)
    else:
        xml.replace(old, new)


def kept(root: xml.Element) -> tuple[xml.Element, ...]:
    """Return the <rng> elements whose place our device took, as its metadata keep them."""
    found = [xml.read(element.text or "") for element in root.iterfind(f"metadata/{xml.WISH}/{xml.REPLACED}")]
    return tuple(element for element in found if element is not None and element.tag == "rng")


def keep(root: xml.Element, elements: Sequence[xml.Element]) -> None:
    """Keep `elements`, beside those that are kept already, in the metadata of `root`."""
    record(root, facts.of(root).wish or Wish(wanted=True), (*kept(root), *elements))


def note(wish: Wish, replaced: Sequence[xml.Element] = ()) -> str:
    """Return what `record` writes, as virDomainSetMetadata takes it: libvirt adds the namespace."""
    texts = [xml.compact(element) for element in replaced]
    return xml.text_of(xml.new_wish(facts.wish_attributes(wish), texts, bare=True))


def filtered(root: xml.Element, settings: DomainSettings, request: Request) -> Refusal | None:
    """Bring a definition on its way to libvirt to policy: a device of ours where it has no virtio-rng.

    One that is not ours gives way where it is to be replaced; one of ours becomes what is asked
    for where anything is. Return None when the tree was changed, else why it was not.
    """
    guest = facts.of(root)
    if guest.wish and not guest.wish.wanted:
        return Refusal("unwanted", "its own metadata say that it wants none", "")
    give_way = _virtios(root, ours=False) if replaces(guest, settings, request) else []
    asked = bool(request.source or request.rate or request.model)
    if guest.ours and not asked and not give_way:
        return Refusal("already", f"already has a virtio-rng ({guest.ours})", "")
    if guest.foreigners and not guest.ours and not give_way:
        return Refusal("foreign", left_alone(guest.foreigners), "")
    device = decide(guest, settings, request)
    if isinstance(device, Refusal):
        return device
    if not guest.rngs and _is_full(root, guest):
        return Refusal("no-slot", "each slot of its only PCI bus is taken", "")
    if give_way:
        keep(root, give_way)
    noted = _note_wish(root, guest.wish, request)
    if _put(root, guest, device, give_way, model=request.model) or noted:
        return None
    return Refusal("already", f"already has a virtio-rng ({device})", "")


def left_alone(devices: Sequence[RngDevice]) -> str:
    """Tell of a guest that has what it needs from somebody else."""
    from_pool = all(device.source in SAFE_SOURCES or device.backend == "builtin" for device in devices)
    pool = ", fed by the same host pool" if from_pool else ""
    if len(devices) == 1:
        return f"already has a virtio-rng (foreign, {devices[0]}){pool}; --replace brings it to policy"
    listed = "; ".join(map(str, devices))
    return f"already has {len(devices)} virtio-rngs (foreign, {listed}){pool}; --replace makes one of them"


def _put(
    root: xml.Element, guest: Facts, device: RngDevice, give_way: Sequence[xml.Element], *, model: str | None
) -> bool:
    """Put `device` where ours is, else where the first that gives way is, else where there is room."""
    ours = _virtios(root, ours=True)
    if ours:
        changed = rng.take_over(ours[0], device)
    elif give_way:
        # Where no other model is asked for, the guest goes on seeing the same hardware at the same place.
        kind = model or str(give_way[0].get("model"))
        changed = rng.take_over(give_way[0], replace(device, model=kind))
        give_way = give_way[1:]
    else:
        # An address in a document that has none would stand in the way of libvirt's own placing.
        new = placed(device, guest) if guest.addressed else device
        xml.append(_child(root, "devices"), rng.to_element(new))
        changed = True
    for element in give_way:
        xml.remove(element)
    return changed or bool(give_way)


def _note_wish(root: xml.Element, held: Wish | None, request: Request) -> bool:
    """Let the metadata hold what was asked for: else it would be brought back to policy one day."""
    wish = held or Wish(wanted=True)
    wish = replace(wish, source=request.source or wish.source, rate=request.rate or wish.rate)
    if not (request.source or request.rate) or wish == held:
        return False
    record(root, wish, kept(root))
    return True


def _is_full(root: xml.Element, guest: Facts) -> bool:
    """Whether libvirt would refuse one device more: the pci-bridge for it wants a slot itself."""
    i440fx = guest.bus is Bus.PCI and guest.arch in ("", "x86_64", "i686")
    if not i440fx or not guest.slots_used >= frozenset(range(1, 0x20)):
        return False
    return all(bus.get("model") == "pci-root" for bus in root.iterfind("devices/controller[@type='pci']"))


def _virtios(root: xml.Element, *, ours: bool) -> list[xml.Element]:
    found = [(element, rng.from_element(element)) for element in root.iterfind("devices/rng")]
    return [element for element, device in found if device.ours is ours and (ours or device.virtio)]


def _child(root: xml.Element, tag: str) -> xml.Element:
    child = root.find(tag)
    if child is None:
        child = xml.new(tag)
        xml.append(root, child)
    return child
