# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt: one connection, and of each guest the few calls that we need. The only import of libvirt.

Definitions are changed by attaching, detaching and setting metadata, never by
reading, editing and defining: that would undo what another client did meanwhile.
"""

import errno
import os
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt

from virtrng.domain import xml
from virtrng.errors import (
    DomainBusy,
    HypervisorDenied,
    HypervisorFault,
    NoHypervisor,
    NoSuchDomain,
    VirtrngError,
)

T = TypeVar("T")

DEFAULT_URI = "qemu:///system"

_DENIED = (
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    libvirt.VIR_ERR_ACCESS_DENIED,
)

# What QEMU says to a second request while the guest has not answered the first
# (7.2, softmmu/qdev-monitor.c:qmp_device_del and hw/pci/pcie.c).
_ASKED_ALREADY = ("is already in the process of unplug", "guest is busy (power indicator blinking)")

# libvirt prints every error on stderr by itself; ours are printed by the command line.
libvirt.registerErrorHandler(lambda _context, _error: None, None)


class Guest:
    """One domain of one connection."""

    def __init__(self, domain: Any) -> None:
        """Wrap a virDomain."""
        self._domain = domain
        self.name: str = domain.name()
        self.uuid: str = domain.UUIDString()

    @property
    def active(self) -> bool:
        """Whether it runs."""
        return bool(self._call("ask for the state of", self._domain.isActive))

    @property
    def persistent(self) -> bool:
        """Whether it has a definition that outlives a run."""
        return bool(self._call("ask for the state of", self._domain.isPersistent))

    def definition(self) -> bytes:
        """Return the XML that its next start will use."""
        return self._xml(libvirt.VIR_DOMAIN_XML_INACTIVE)

    def running(self) -> bytes:
        """Return the XML of the guest that runs."""
        return self._xml(0)

    def attach(self, device: str, *, live: bool) -> None:
        """Attach a device to the running guest, or to the definition."""
        self._call("attach the device to", lambda: self._domain.attachDeviceFlags(device, _flag(live=live)))

    def detach(self, alias: str, *, live: bool) -> None:
        """Ask for a device's removal; a running guest has it until it lets go."""
        try:
            self._call(
                "detach the device from", lambda: self._domain.detachDeviceAlias(alias, _flag(live=live))
            )
        except HypervisorFault as error:
            if not any(words in error.reason for words in _ASKED_ALREADY):
                raise

    def record(self, attributes: dict[str, str] | None, *, live: bool) -> None:
        """Put our element into the metadata, in the place of any older one; None removes it."""
        kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
        # libvirt declares the namespace itself, and refuses an element that does.
        element = None if attributes is None else xml.text_of(xml.new("guest", attributes))
        self._call(
            "write the metadata of",
            lambda: self._domain.setMetadata(kind, element, xml.PREFIX, xml.NAMESPACE, _flag(live=live)),
        )

    def _xml(self, flags: int) -> bytes:
        return str(self._call("read the definition of", lambda: self._domain.XMLDesc(flags))).encode()

    def _call(self, doing: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except libvirt.libvirtError as error:
            reason, connection = _reason(error), self._domain.connect()
            if error.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT:
                raise DomainBusy(self.name, reason) from error
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                raise NoSuchDomain(self.name, connection.getURI()) from error
            raise _fault(connection, f"{doing} {self.name}", reason) from error


class Hypervisor:
    """A connection; use it as a context manager."""

    def __init__(self, uri: str | None = None, *, readonly: bool = False) -> None:
        """Connect to `uri`, else to LIBVIRT_DEFAULT_URI, else to the system's QEMU.

        Raises NoHypervisor or HypervisorDenied.
        """
        self.uri = uri or os.environ.get("LIBVIRT_DEFAULT_URI") or DEFAULT_URI
        try:
            self._connection = (libvirt.openReadOnly if readonly else libvirt.open)(self.uri)
        except libvirt.libvirtError as error:
            raise _not_opened(self.uri, error) from error

    def __enter__(self) -> "Hypervisor":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def guest(self, wanted: str) -> Guest:
        """Find a guest as virsh does: by id, UUID or name. Raises NoSuchDomain."""
        lookups: list[tuple[bool, Callable[[], Any]]] = [
            (wanted.isdecimal(), lambda: self._connection.lookupByID(int(wanted))),
            (len(wanted) in (32, 36), lambda: self._connection.lookupByUUIDString(wanted)),
            (True, lambda: self._connection.lookupByName(wanted)),
        ]
        for _, lookup in filter(lambda entry: entry[0], lookups):
            try:
                return Guest(lookup())
            except libvirt.libvirtError as error:
                if error.get_error_code() not in (
                    libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG
                ):  # fmt: skip
                    raise _fault(self._connection, f"look up {wanted}", _reason(error)) from error
        raise NoSuchDomain(wanted, self.uri)

    def guests(self) -> list[Guest]:
        """List all guests by name."""
        try:
            domains = [Guest(domain) for domain in self._connection.listAllDomains()]
        except libvirt.libvirtError as error:
            raise _fault(self._connection, "list the guests", _reason(error)) from error
        return sorted(domains, key=lambda guest: guest.name)


def _flag(*, live: bool) -> int:
    return int(libvirt.VIR_DOMAIN_AFFECT_LIVE if live else libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def _reason(error: libvirt.libvirtError) -> str:
    return str(error.get_error_message() or error)


def _fault(connection: Any, doing: str, reason: str) -> VirtrngError:
    """Tell a daemon that has gone, which libvirt reports as an internal error, from one that refuses."""
    if not connection.isAlive():
        return NoHypervisor(str(connection.getURI()), reason)
    return HypervisorFault(doing, reason)


def _not_opened(uri: str, error: libvirt.libvirtError) -> VirtrngError:
    reason = _reason(error)
    # A socket that may not be opened is reported as a system error with the words of strerror(3).
    if error.get_error_code() in _DENIED or os.strerror(errno.EACCES) in reason:
        return HypervisorDenied(uri, reason)
    return NoHypervisor(uri, reason)
