# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt: one connection, and of each guest the few calls that we need. The only import of libvirt.

Definitions are changed by attaching, detaching and setting metadata, never by
reading, editing and defining: that would undo what another client did meanwhile.
"""

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar

import libvirt

from virtrng.domain import xml
from virtrng.domain.happenings import DETAILS, EVENTS, Happening
from virtrng.domain.standing import Standing, State
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

# Since 10.5 it tells the hook of a revert to a snapshot (docs/hooks.rst).
_TELLS_OF_REVERTS = 10_005_000

# libvirt prints every error on stderr by itself; ours are printed by the command line.
libvirt.registerErrorHandler(lambda _context, _error: None, None)


# Why a guest may be paused while something is being done with it that no change may cross.
_PAUSED_AT_WORK = (
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION,
    libvirt.VIR_DOMAIN_PAUSED_SAVE,
    libvirt.VIR_DOMAIN_PAUSED_DUMP,
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT,
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP,
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY,
)


# In the order of Standing's fields after the first, which a domain's id tells.
_STANDINGS = (
    libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT,
    libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE,
    libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT,
)


# A daemon that has not answered for 20 s is given up. virsh waits for 30 s.
_KEEPALIVE_S = 5
_KEEPALIVE_COUNT = 3
_TURN_MS = 1000
# A hotplug takes 30 ms here.
_OCCUPIED_MS = 1000


def _constant(*words: str) -> int:
    return int(getattr(libvirt, "_".join(("VIR_DOMAIN_EVENT", *words))))


_EVENTS = {_constant(event): meaning for event, meaning in EVENTS.items()}
_DETAILS = {
    (_constant(event), _constant(event, detail)): meaning for (event, detail), meaning in DETAILS.items()
}


def _of_lifecycle(event: int, detail: int) -> Happening | None:
    return _DETAILS.get((event, detail)) or _EVENTS.get(event)


def _of_metadata(_kind: int, namespace: str | None) -> Happening | None:
    return Happening.WISHED if namespace == xml.NAMESPACE else None


_TOLD = (
    (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, _of_lifecycle),
    (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, lambda _alias: Happening.CHANGED),
    (libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, _of_metadata),
)


def run_events(turned: Callable[[], None]) -> None:
    """Run libvirt's event loop in a thread, for as long as this process lives.

    To be called once, before the first connection: only those that are opened after it tell of events
    and keep themselves alive. `turned` is called once a second, in that thread.
    """
    libvirt.virEventRegisterDefaultImpl()
    libvirt.virEventAddTimeout(_TURN_MS, lambda *_: turned(), None)
    Thread(target=_turn_for_ever, name="libvirt events", daemon=True).start()


def _turn_for_ever() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


class Guest:
    """One domain of one connection."""

    def __init__(
        self, domain: Any, standing: Standing | None = None, told: dict[tuple[str, ...], bytes] | None = None
    ) -> None:
        """Wrap a virDomain; what `standing` does not tell is asked for. `told` keeps the capabilities."""
        self._domain = domain
        self._standing = standing
        self._told = {} if told is None else told
        self.name: str = domain.name()
        self.uuid: str = domain.UUIDString()

    @property
    def active(self) -> bool:
        """Whether it runs, or ran when it was listed."""
        if self._standing:
            return self._standing.active
        return bool(self._call("ask for the state of", self._domain.isActive))

    @property
    def persistent(self) -> bool:
        """Whether it has a definition that outlives a run."""
        if self._standing:
            return self._standing.persistent
        return bool(self._call("ask for the state of", self._domain.isPersistent))

    def state(self) -> State:
        """Tell what it is doing now; BUSY is what a start, a save, a snapshot or a migration keeps busy.

        OCCUPIED is one whose QEMU leaves a call unanswered: a second one would wait, too, for 30 s.
        """
        state, reason = self._call("ask for the state of", self._domain.state)
        if state == libvirt.VIR_DOMAIN_PAUSED and reason in _PAUSED_AT_WORK:
            return State.BUSY
        if state == libvirt.VIR_DOMAIN_SHUTOFF:
            return State.OFF
        if state == libvirt.VIR_DOMAIN_CRASHED or (
            state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_CRASHED
        ):
            return State.CRASHED
        control, _, for_ms = self._call("ask for the state of", _if_any(self._domain.controlInfo)) or (0,) * 3
        if control == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED and for_ms > _OCCUPIED_MS:
            return State.OCCUPIED
        job = self._call("ask for the jobs of", _if_any(self._domain.jobInfo))
        if job and job[0] != libvirt.VIR_DOMAIN_JOB_NONE:
            return State.BUSY
        return State.PAUSED if state == libvirt.VIR_DOMAIN_PAUSED else State.RUNNING

    def saved_image(self) -> bytes | None:
        """Return the XML in its managed-save image, which its next start restores; None without one."""
        if self._standing and not self._standing.saved:
            return None
        if not self._call("ask for the saved image of", self._domain.hasManagedSaveImage):
            return None
        read = self._domain.managedSaveGetXMLDesc
        return str(self._call("read the saved image of", lambda: read(0))).encode()

    def snapshots(self) -> list[bytes]:
        """Return the XML of each of its snapshots."""
        if self._standing and not self._standing.snapshots:
            return []
        found = self._call("list the snapshots of", self._domain.listAllSnapshots)
        return [str(self._call("read a snapshot of", one.getXMLDesc)).encode() for one in found]

    @property
    def revert_looks_like_a_start(self) -> bool:
        """Whether the hook cannot tell a revert to a snapshot from a fresh start."""
        version = self._call("ask for the version of the daemon of", self._domain.connect().getLibVersion)
        return int(version) < _TELLS_OF_REVERTS

    def capabilities(self, emulator: str, arch: str, machine: str, kind: str) -> bytes | None:
        """Return what this host's QEMU can do for such a guest; None where libvirt cannot tell."""
        connection, asked = self._domain.connect(), (emulator, arch, machine, kind)
        if asked not in self._told:
            try:
                told = connection.getDomainCapabilities(emulator or None, arch, machine, kind)
            except libvirt.libvirtError as error:
                if connection.isAlive():  # a driver that has none, an emulator that is not there
                    return None
                raise _fault(connection, "ask for QEMU's capabilities", _reason(error)) from error
            self._told[asked] = str(told).encode()
        return self._told[asked]

    def definition(self) -> bytes:
        """Return the XML that its next start will use."""
        return self._xml(libvirt.VIR_DOMAIN_XML_INACTIVE)

    def running(self) -> bytes:
        """Return the XML of the guest that runs."""
        return self._xml(0)

    def attach(self, device: str, *, live: bool) -> None:
        """Attach a device to the running guest, or to the definition."""
        self._call("attach the device to", lambda: self._domain.attachDeviceFlags(device, _flag(live=live)))

    def attach_to_both(self, device: str) -> None:
        """Attach a device to the definition and to the running guest: to both or to none."""
        flags = _flag(live=True) | _flag(live=False)
        self._call("attach the device to", lambda: self._domain.attachDeviceFlags(device, flags))

    def detach(self, alias: str, *, live: bool) -> None:
        """Ask for the removal of our device; a running guest has it until it lets go."""
        self._detach(lambda: self._domain.detachDeviceAlias(alias, _flag(live=live)))

    def detach_foreign(self, device: str, *, live: bool) -> None:
        """Ask for the removal of the device that `device` describes, with its address."""
        self._detach(lambda: self._domain.detachDeviceFlags(device, _flag(live=live)))

    def _detach(self, call: Callable[[], object]) -> None:
        try:
            self._call("detach the device from", call)
        except HypervisorFault as error:
            if not any(words in error.reason for words in _ASKED_ALREADY):
                raise

    def record(self, element: str | None, *, live: bool) -> None:
        """Put our element into the metadata, in the place of any older one; None removes it.

        The element is without its namespace: libvirt declares that itself, and refuses one that does.
        """
        kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
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
        self._told: dict[tuple[str, ...], bytes] = {}
        self._callbacks: list[int] = []
        self.uri = uri or os.environ.get("LIBVIRT_DEFAULT_URI") or DEFAULT_URI
        try:
            self._connection = (libvirt.openReadOnly if readonly else libvirt.open)(self.uri)
        except libvirt.libvirtError as error:
            raise _not_opened(self.uri, error) from error

    def __enter__(self) -> "Hypervisor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and with it what `listen` began."""
        for callback in self._callbacks:
            with suppress(libvirt.libvirtError):  # the daemon has gone already
                self._connection.domainEventDeregisterAny(callback)
        if self._callbacks:
            with suppress(libvirt.libvirtError):
                self._connection.unregisterCloseCallback()
        self._connection.close()

    @property
    def alive(self) -> bool:
        """Whether the daemon is still there, as far as is known."""
        return bool(self._connection.isAlive())

    def keep_alive(self) -> None:
        """End every call that waits, once the daemon has not answered for 20 s. Needs `run_events`."""
        with suppress(libvirt.libvirtError):  # a driver without a daemon
            self._connection.setKeepAlive(_KEEPALIVE_S, _KEEPALIVE_COUNT)

    def listen(self, happened: Callable[[str, Happening], None], closed: Callable[[], None]) -> None:
        """Have `happened` called with a guest's UUID, and `closed` once when the daemon has gone.

        Both are called in the thread of `run_events`, and must return at once. Raises HypervisorFault.
        """
        register = self._connection.domainEventRegisterAny

        def tell(_connection: Any, domain: Any, *told: Any) -> None:
            if happening := told[-1](*told[:-1]):
                happened(domain.UUIDString(), happening)

        self.keep_alive()
        try:
            self._connection.registerCloseCallback(lambda *_: closed(), None)
            self._callbacks = [register(None, kind, tell, means) for kind, means in _TOLD]
        except libvirt.libvirtError as error:
            raise _fault(self._connection, "listen for events", _reason(error)) from error

    def capabilities(self) -> bytes:
        """Return the XML in which the host describes itself."""
        try:
            return str(self._connection.getCapabilities()).encode()
        except libvirt.libvirtError as error:
            raise _fault(self._connection, "ask for the host's capabilities", _reason(error)) from error

    def guest(self, wanted: str) -> Guest:
        """Find a guest as virsh does: by id, UUID or name. Raises NoSuchDomain."""
        lookups: list[tuple[bool, Callable[[], Any]]] = [
            (wanted.isdecimal(), lambda: self._connection.lookupByID(int(wanted))),
            (len(wanted) in (32, 36), lambda: self._connection.lookupByUUIDString(wanted)),
            (True, lambda: self._connection.lookupByName(wanted)),
        ]
        for _, lookup in filter(lambda entry: entry[0], lookups):
            try:
                return Guest(lookup(), told=self._told)
            except libvirt.libvirtError as error:
                if error.get_error_code() not in (
                    libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_INVALID_ARG
                ):  # fmt: skip
                    raise _fault(self._connection, f"look up {wanted}", _reason(error)) from error
        raise NoSuchDomain(wanted, self.uri)

    def guests(self) -> list[Guest]:
        """List all guests by name, each with its standing: four calls, however many guests there are."""
        listed = self._connection.listAllDomains
        try:
            sets = [{domain.UUID() for domain in listed(flag)} for flag in _STANDINGS]
            guests = [
                Guest(domain, Standing(domain.ID() >= 0, *(domain.UUID() in one for one in sets)), self._told)
                for domain in listed()
            ]
        except libvirt.libvirtError as error:
            raise _fault(self._connection, "list the guests", _reason(error)) from error
        return sorted(guests, key=lambda guest: guest.name)


def _flag(*, live: bool) -> int:
    return int(libvirt.VIR_DOMAIN_AFFECT_LIVE if live else libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def _if_any(ask: Callable[[], Sequence[int]]) -> Callable[[], Sequence[int]]:
    def asked() -> Sequence[int]:
        try:
            return ask()
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:  # of the driver
                raise
            return ()

    return asked


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
