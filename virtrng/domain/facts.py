# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a domain's XML says that matters to us. It decides nothing."""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from virtrng.config import Rate
from virtrng.domain import rng, xml
from virtrng.domain.rng import RngDevice

OUR_TYPES = ("qemu", "kvm", "hvf")
# Of a conventional PCI bus: 0x00 is the host bridge, 0x01 on i440fx the chipset's own.
_SLOTS = frozenset(range(0x02, 0x20))
_LIBOSINFO = "{http://libosinfo.org/xmlns/libvirt/domain/1.0}"
# The namespaces in which others keep their notes on a guest, which they define anew whenever they please.
_MANAGERS = {
    "{http://openstack.org/xmlns/libvirt/nova/": "Nova",
    "{http://ovirt.org/vm/": "oVirt",
    "{http://kubevirt.io": "KubeVirt",
}

# The architectures whose guests libvirt gives no PCI bus (qemuDomainDefAddDefaultDevices, 9.0).
_WITHOUT_PCI = ("m68k", "microblaze", "xtensa", "or1k", "or32", "cris", "parisc", "hppa", "lm32", "unicore32")


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
    """One definition, or one running guest.

    `manager` is whose it is, where it is another program's; `full` whether its only
    PCI bus has a device in every slot.
    """

    name: str
    uuid: str
    type: str
    arch: str
    machine: str
    emulator: str
    os: str
    manager: str | None
    bus: Bus
    hotplug: bool
    rngs: tuple[RngDevice, ...]
    wish: Wish | None
    addressed: bool
    slots_used: frozenset[int]
    free_ports: int
    full: bool

    @property
    def ours(self) -> RngDevice | None:
        """Our device, if it is there."""
        return next((device for device in self.rngs if device.ours), None)

    @property
    def foreign(self) -> RngDevice | None:
        """The first virtio-rng that somebody else gave it."""
        return next(iter(self.foreigners), None)

    @property
    def foreigners(self) -> tuple[RngDevice, ...]:
        """All that somebody else gave it."""
        return tuple(device for device in self.rngs if device.virtio and not device.ours)


def of(root: xml.Element) -> Facts:
    """Read the facts out of a <domain>."""
    kind = root.find("os/type")
    machine, arch = (kind.get("machine", ""), kind.get("arch", "")) if kind is not None else ("", "")
    controllers = [dict(one.attrib) for one in _devices(root, "controller") if one.get("type") == "pci"]
    bus = _bus(controllers, machine, arch)
    addresses = _pci_addresses(root)
    slots = frozenset(slot for number, slot in addresses if number == 0)
    return Facts(
        name=root.findtext("name", ""),
        uuid=root.findtext("uuid", ""),
        type=root.get("type", ""),
        arch=arch,
        machine=machine,
        emulator=root.findtext("devices/emulator", ""),
        os=_os(root),
        manager=_manager(root),
        bus=bus,
        hotplug=_takes_devices_while_running(root, bus, arch),
        rngs=tuple(rng.from_element(element) for element in root.iterfind("devices/rng")),
        wish=_wish(root),
        addressed=bool(addresses),
        slots_used=slots,
        free_ports=_free_ports(controllers, {number for number, _ in addresses}),
        full=bus is Bus.PCI and len(controllers) < 2 and slots >= _SLOTS,
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


def _manager(root: xml.Element) -> str | None:
    metadata = root.find("metadata")
    tags = (
        [element.tag for element in metadata if isinstance(element.tag, str)] if metadata is not None else []
    )
    return next(
        (name for start, name in _MANAGERS.items() if any(tag.startswith(start) for tag in tags)), None
    )


def _bus(controllers: list[dict[str, str]], machine: str, arch: str) -> Bus:
    by_name = _bus_of_machine(machine, arch)
    if by_name not in (Bus.PCI, Bus.PCIE):  # libvirt puts no device on the PCI bus of such a machine
        return by_name
    models = {controller.get("model") for controller in controllers}
    if "pcie-root" in models:
        return Bus.PCIE
    return Bus.PCI if "pci-root" in models else by_name


def _bus_of_machine(machine: str, arch: str) -> Bus:
    """Tell by names, for a document that libvirt has not seen yet; its defaults where they are left out."""
    if arch.startswith("s390"):
        return Bus.CCW
    if machine in ("microvm", "isapc", "none") or arch.startswith(_WITHOUT_PCI):
        return Bus.NONE
    if "q35" in machine:
        return Bus.PCIE
    if arch.startswith(("aarch64", "arm", "riscv", "loongarch")):
        if machine == "virt" or machine.startswith("virt-") or not machine:
            return Bus.PCIE
        if (arch, machine) == ("armv6l", "versatilepb"):
            return Bus.PCI
        return Bus.MMIO if machine.startswith("vexpress-") else Bus.NONE
    if arch == "sparc" or (arch.startswith("mips") and machine not in ("malta", "")):
        return Bus.NONE
    return Bus.PCI


def _takes_devices_while_running(root: xml.Element, bus: Bus, arch: str) -> bool:
    """Tell whether the bus does; a PCIe bus also needs a free port for each device."""
    # i440fx hotplugs through ACPI alone; without it libvirt says that bus 'pci.0' does not support it.
    conventional = bus is Bus.PCI and arch in ("x86_64", "i686")
    return bus is not Bus.MMIO and not (conventional and root.find("features/acpi") is None)


def _pci_addresses(root: xml.Element) -> set[tuple[int, int]]:
    """Return (bus, slot) of every device; an address that is not a number is libvirt's to refuse."""
    found = set()
    for element in root.iter("address"):  # a third of the time that iterfind("devices/*/address") takes
        if element.get("type") == "pci" and _is_device(element.getparent(), root):
            found.add((element.get("domain", "0"), element.get("bus", "0"), element.get("slot", "0")))
    numbers = [(_number(domain), _number(bus), _number(slot)) for domain, bus, slot in found]
    return {
        (bus, slot) for domain, bus, slot in numbers if domain == 0 and bus is not None and slot is not None
    }


def _devices(root: xml.Element, tag: str) -> list[xml.Element]:
    return [element for element in root.iter(tag) if _is_device(element, root)]


def _is_device(element: xml.Element, root: xml.Element) -> bool:
    parent = element.getparent()
    return parent is not None and parent.tag == "devices" and parent.getparent() is root


def _free_ports(controllers: list[dict[str, str]], buses_used: set[int]) -> int:
    """Count the pcie-root-ports with nothing behind them: each can take one hotplugged device."""
    ports = [controller for controller in controllers if controller.get("model") == "pcie-root-port"]
    indexes = [_number(port.get("index", "0")) for port in ports]
    return sum(index is not None and index not in buses_used for index in indexes)


@lru_cache(maxsize=1024)
def _number(text: str) -> int | None:
    """Read a number as libvirt's XML has them, in hexadecimal or decimal; None if it is none."""
    try:
        return int(text, 0)
    except ValueError:
        return None
