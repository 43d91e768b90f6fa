# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bulk transfers to a key over libusb.

A key whose serial port the kernel has bound (cdc_acm) is taken from it on
opening and given back on closing.
"""

import errno
import logging
from typing import Any

import usb.core
import usb.util

from virtrng.errors import KeyDenied, KeyFault, KeyInUse, KeyLost
from virtrng.transport import scan
from virtrng.transport.scan import UsbDevice

log = logging.getLogger(__name__)

_GONE = (errno.ENODEV, errno.ENOENT, errno.ESHUTDOWN)
# The USB class of a CDC interface that carries the bytes (CDC 1.2, table 4.6).
_CDC_DATA = 0x0A


class UsbTransport:
    """The bulk endpoints of one key, claimed."""

    def __init__(self, key: str, device: UsbDevice, *, backend: Any = None) -> None:
        """Open `device`, take its interfaces from the kernel's driver and claim them.

        `backend` is a pyusb backend, for a libusb that lies in an unusual place.
        Raises KeyDenied, KeyInUse, KeyLost or KeyFault; nothing is then left claimed.
        """
        self.key = key
        self.simulated = device.simulated
        self._node = device.node
        self._detached: list[int] = []
        found = usb.core.find(bus=device.bus, address=device.address, backend=backend)
        if found is None:
            raise KeyLost(key, "opening it")
        self._device = found
        try:
            self._claim()
        except usb.core.USBError as error:
            self.close()
            raise self._error(error, "opening it") from error
        except BaseException:
            self.close()
            raise

    def _claim(self) -> None:
        configuration = self._device.get_active_configuration()
        for interface in configuration:
            number = interface.bInterfaceNumber
            if self._device.is_kernel_driver_active(number):
                self._device.detach_kernel_driver(number)
                self._detached.append(number)
            usb.util.claim_interface(self._device, number)
        interfaces = sorted(configuration, key=lambda found: found.bInterfaceClass != _CDC_DATA)
        for interface in interfaces:
            self._in = _bulk_endpoint(interface, usb.util.ENDPOINT_IN)
            self._out = _bulk_endpoint(interface, usb.util.ENDPOINT_OUT)
            if self._in is not None and self._out is not None:
                return
        raise KeyFault(self.key, "it has no pair of bulk endpoints")

    def read(self, size: int, timeout_ms: int) -> bytes:
        """See Transport.read. At most one packet is asked for: a key sends frames of just that size."""
        try:
            return bytes(self._in.read(min(size, self._in.wMaxPacketSize), timeout_ms))
        except usb.core.USBTimeoutError:
            return b""
        except usb.core.USBError as error:
            raise self._error(error, "being read") from error

    def write(self, data: bytes, timeout_ms: int) -> None:
        """See Transport.write."""
        try:
            sent = self._out.write(data, timeout_ms)
        except usb.core.USBError as error:
            raise self._error(error, "being written to") from error
        if sent != len(data):
            raise KeyFault(self.key, f"it took {sent} of {len(data)} bytes")

    def close(self) -> None:
        """Give the interfaces back to the drivers that had them."""
        usb.util.dispose_resources(self._device)
        while self._detached:
            number = self._detached.pop()
            try:
                self._device.attach_kernel_driver(number)
            except (usb.core.USBError, NotImplementedError) as error:
                # Unplugged, or bound again together with the interface before it.
                log.debug("%s: interface %d was not given back: %s", self.key, number, error)
        usb.util.dispose_resources(self._device)

    def _error(self, error: usb.core.USBError, doing: str) -> KeyDenied | KeyInUse | KeyLost | KeyFault:
        if error.errno in _GONE:
            return KeyLost(self.key, doing)
        if error.errno in (errno.EACCES, errno.EPERM):
            return KeyDenied(self.key, self._node)
        if error.errno == errno.EBUSY:
            return KeyInUse(self.key, scan.holder(self._node) or "another program")
        return KeyFault(self.key, f"{error.strerror or error} while {doing}")


def _bulk_endpoint(interface: Any, direction: int) -> Any:
    return usb.util.find_descriptor(
        interface,
        custom_match=lambda endpoint: (
            usb.util.endpoint_direction(endpoint.bEndpointAddress) == direction
            and usb.util.endpoint_type(endpoint.bmAttributes) == usb.util.ENDPOINT_TYPE_BULK
        ),
    )
