# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a domain's XML says that matters to us. It decides nothing."""

from dataclasses import dataclass
from enum import Enum

from virtrng.config import Rate
from virtrng.domain import rng, xml
from virtrng.domain.rng import RngDevice

OUR_TYPES = ("qemu", "kvm", "hvf")
_LIBOSINFO = "{http://libosinfo.org/xmlns/libvirt/domain/1.0}"


class Bus(Enum):
    """What a machine offers for a virtio device."""

    PCIE = "pcie"
    PCI = "pci"
    CCW = "ccw"
    MMIO = "virtio-mmio"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the guest's own metadata says: whether it wants the device, and of which kind."""

    wanted: bool
    source: str | None = None
    rate: Rate | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """One definition, or one running guest."""

    name: str
    uuid: str
    type: str
    os: str
    bus: Bus
    hotplug: bool
    rngs: tuple[RngDevice, ...]
    wish: Wish | None
    addressed: bool
    slots_used: frozenset[int]
    free_ports: int

    @property
    def ours(self) -> RngDevice | None:
        """Our device, if it is there."""
        return next((device for device in self.rngs if device.ours), None)

    @property
    def foreign(self) -> RngDevice | None:
        """The first virtio-rng that somebody else gave it."""
        return next((device for device in self.rngs if device.virtio and not device.ours), None)


def of(root: xml.Element) -> Facts:
    """Read the facts out of a <domain>."""
    addresses = _pci_addresses(root)
    return Facts(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        type=root.get("type", ""),
        os=_os(root),
        bus=_bus(root),
        hotplug=_takes_devices_while_running(root),
        rngs=tuple(rng.from_element(element) for element in root.iterfind("devices/rng")),
        wish=_wish(root),
        addressed=bool(addresses),
        slots_used=frozenset(slot for bus, slot in addresses if bus == 0),
        free_ports=_free_ports(root, {bus for bus, _ in addresses}),
    )


def wish_attributes(wish: Wish) -> dict[str, str]:
    """Write a wish as the attributes of our element in <metadata>."""
    attributes = {"device": "on" if wish.wanted else "off"}
    if wish.source:
        attributes["source"] = wish.source
    if wish.rate:
        attributes |= {"bytes": str(wish.rate.bytes), "period": str(wish.rate.period_ms)}
    return attributes


def _wish(root: xml.Element) -> Wish | None:
    element = root.find(f"metadata/{xml.WISH}")
    if element is None:
        return None
    return Wish(element.get("device") != "off", element.get("source"), _wished_rate(element))


def _wished_rate(element: xml.Element) -> Rate | None:
    """Read a rate that libvirt would take; any other that a person wrote counts for nothing."""
    try:
        rate = Rate(int(element.get("bytes", "")), int(element.get("period", "1000")))
    except ValueError:
        return None
    return rate if 0 < rate.bytes < 2**32 and 0 < rate.period_ms < 2**32 else None


def _os(root: xml.Element) -> str:
    element = root.find(f"metadata/{_LIBOSINFO}libosinfo/{_LIBOSINFO}os")
    return "" if element is None else str(element.get("id", ""))


def _bus(root: xml.Element) -> Bus:
    controllers = {element.get("model") for element in root.iterfind("devices/controller[@type='pci']")}
    if "pcie-root" in controllers:
        return Bus.PCIE
    if "pci-root" in controllers:
        return Bus.PCI
    kind = root.find("os/type")
    machine, arch = (kind.get("machine", ""), kind.get("arch", "")) if kind is not None else ("", "")
    return _bus_of_machine(machine, arch)


def _bus_of_machine(machine: str, arch: str) -> Bus:
    """Tell by names, for a document that libvirt has not seen yet; its defaults where they are left out."""
    if arch.startswith("s390"):
        return Bus.CCW
    if machine in ("microvm", "isapc", "none"):
        return Bus.NONE
    if "q35" in machine:
        return Bus.PCIE
    if arch in ("aarch64", "armv7l", "riscv64", "riscv32", "loongarch64"):
        return Bus.PCIE if machine.startswith("virt") or not machine else Bus.MMIO
    return Bus.PCI


def _takes_devices_while_running(root: xml.Element) -> bool:
    """Tell whether the bus does; a PCIe bus also needs a free port for each device."""
    kind = root.find("os/type")
    x86 = kind is not None and kind.get("arch", "") in ("x86_64", "i686")
    # i440fx hotplugs through ACPI alone; without it libvirt says that bus 'pci.0' does not support it.
    conventional = _bus(root) is Bus.PCI and x86
    return _bus(root) is not Bus.MMIO and not (conventional and root.find("features/acpi") is None)


def _pci_addresses(root: xml.Element) -> set[tuple[int, int]]:
    """Return (bus, slot) of every device; an address that is not a number is libvirt's to refuse."""
    found = set()
    for element in root.iterfind("devices/*/address[@type='pci']"):
        domain, bus, slot = (_number(element.get(name, "0")) for name in ("domain", "bus", "slot"))
        if domain == 0 and bus is not None and slot is not None:
            found.add((bus, slot))
    return found


def _free_ports(root: xml.Element, buses_used: set[int]) -> int:
    """Count the pcie-root-ports with nothing behind them: each can take one hotplugged device."""
    ports = root.iterfind("devices/controller[@type='pci'][@model='pcie-root-port']")
    indexes = [_number(port.get("index", "0")) for port in ports]
    return sum(index is not None and index not in buses_used for index in indexes)


def _number(text: str) -> int | None:
    """Read a number as libvirt's XML has them, in hexadecimal or decimal; None if it is none."""
    try:
        return int(text, 0)
    except ValueError:
        return None
