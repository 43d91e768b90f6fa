# SPDX-License-Identifier: LGPL-2.1-or-later
"""RngDevice ⇄ <rng>: the element is read and made here, and nowhere else. It decides nothing."""

from dataclasses import dataclass

from virtrng.config import Rate
from virtrng.domain import xml

# libvirt keeps aliases that begin with 'ua-', and refuses a second device of the
# same one: it is the only mark of what is ours.
ALIAS = "ua-virtrng0"
DEFAULT_PERIOD_MS = 1000  # qemuBuildRNGDevProps, where <rate> has no period


@dataclass(frozen=True, slots=True)
class Address:
    """The attributes of <address>, as they stand."""

    attributes: tuple[tuple[str, str], ...]

    @classmethod
    def on_root_complex(cls, slot: int) -> "Address":
        """Return the address of `slot` on bus 0."""
        values = ("pci", "0x0000", "0x00", f"0x{slot:02x}", "0x0")
        return cls(tuple(zip(("type", "domain", "bus", "slot", "function"), values, strict=True)))

    @property
    def is_on_root_complex(self) -> bool:
        """Whether it is on bus 0, whatever the slot."""
        values = dict(self.attributes)
        return values.get("type") == "pci" and int(values.get("bus", "0"), 0) == 0


@dataclass(frozen=True, slots=True)
class RngDevice:
    """One random number device. `source` is the file of a 'random' backend; `rate` None is unlimited."""

    source: str | None
    rate: Rate | None
    model: str = "virtio"
    backend: str = "random"
    alias: str | None = None
    address: Address | None = None

    @property
    def ours(self) -> bool:
        """Whether virtrng put it there."""
        return self.alias == ALIAS

    @property
    def virtio(self) -> bool:
        """Whether the guest's virtio-rng driver serves it."""
        return self.model.startswith("virtio")

    def same_service(self, other: "RngDevice") -> bool:
        """Whether a guest gets the same from both, wherever they are plugged in."""
        return (self.source, self.rate, self.backend) == (other.source, other.rate, other.backend)

    def __str__(self) -> str:
        return f"{self.source or self.backend}, {self.rate or 'unlimited'}"


def from_element(element: xml.Element) -> RngDevice:
    """Read an <rng> as libvirt or a person wrote it."""
    # The first of each, in one walk: four calls of find() take five times as long.
    found = {child.tag: child for child in reversed(element)}
    backend, alias, address = (found.get(tag) for tag in ("backend", "alias", "address"))
    model = backend.get("model", "") if backend is not None else ""
    source = (backend.text or "").strip() if backend is not None and model == "random" else None
    return RngDevice(
        source="/dev/random" if source == "" else source,  # virDomainRNGDefPostParse
        rate=_rate(found.get("rate")),
        model=element.get("model", ""),
        backend=model,
        alias=alias.get("name") if alias is not None else None,
        address=Address(tuple(address.attrib.items())) if address is not None else None,
    )


def to_element(device: RngDevice) -> xml.Element:
    """Write `device` as an <rng>."""
    element = xml.new("rng", {"model": device.model})
    if device.rate:
        element.append(_rate_element(device.rate))
    element.append(_backend_element(device))
    if device.alias:
        element.append(xml.new("alias", {"name": device.alias}))
    if device.address:
        element.append(xml.new("address", dict(device.address.attributes)))
    return element


def retarget(element: xml.Element, device: RngDevice) -> bool:
    """Give an <rng> the backend and the rate of `device`, in place; return whether anything changed.

    Model, address, alias, driver options and order stay: libvirt compares them
    when a guest is migrated or restored (virDomainRNGDefCheckABIStability).
    """
    if from_element(element).same_service(device):
        return False
    _put(element, "backend", _backend_element(device))
    _put(element, "rate", _rate_element(device.rate) if device.rate else None)
    return True


def take_over(element: xml.Element, device: RngDevice) -> bool:
    """Make `device` of an <rng>, in place; return whether anything changed.

    What it does not tell of stays as it is: the address, driver options, comments.
    """
    present = from_element(element)
    changed = retarget(element, device)
    if present.model != device.model:
        element.set("model", device.model)
        changed = True
    if present.alias != device.alias and device.alias:
        _put(element, "alias", xml.new("alias", {"name": device.alias}))
        changed = True
    return changed


def _put(element: xml.Element, tag: str, child: xml.Element | None) -> None:
    """Put `child` in the place of the element of that tag, else where libvirt writes it."""
    old, address = element.find(tag), element.find("address")
    if child is None:
        if old is not None:
            xml.remove(old)
    elif old is not None:
        xml.replace(old, child)
    elif tag == "rate" and len(element):
        xml.insert(element[0], child)
    elif address is not None:
        xml.insert(address, child)
    else:
        xml.append(element, child)


def _backend_element(device: RngDevice) -> xml.Element:
    return xml.new("backend", {"model": device.backend}, device.source)


def _rate_element(rate: Rate) -> xml.Element:
    return xml.new("rate", {"bytes": str(rate.bytes), "period": str(rate.period_ms)})


def _rate(element: xml.Element | None) -> Rate | None:
    if element is None:
        return None
    try:
        count = int(element.get("bytes", "0"))
        period_ms = int(element.get("period", DEFAULT_PERIOD_MS))
    except ValueError:  # libvirt refuses it; it is not for us to judge
        return None
    return Rate(count, period_ms) if count > 0 else None
