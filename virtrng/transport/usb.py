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

# EIO: what libusb makes of EPROTO, by which a device that is being unplugged is often noticed first.
_GONE = (errno.ENODEV, errno.ENOENT, errno.ESHUTDOWN, errno.EIO)
# The USB class of a CDC interface that carries the bytes (CDC 1.2, table 4.6).
_CDC_DATA = 0x0A


class UsbTransport:
    """The bulk endpoints of one key, claimed."""

    def __init__(self, key: str, device: UsbDevice, *, backend: Any = None) -> None:
        """Open `device`, take its interfaces from the kernel's driver and claim them.

        A program that has its serial port open, such as ekeyd, keeps it: KeyInUse.
        `backend` is a pyusb backend, for a libusb that lies in an unusual place.
        Raises KeyDenied, KeyInUse, KeyLost or KeyFault; nothing is then left claimed.
        """
        self.key = key
        self.simulated = device.simulated
        self._node = device.node
        self._taken: list[int] = []
        self._closed = False
        try:
            self._device = usb.core.find(bus=device.bus, address=device.address, backend=backend)
        except usb.core.NoBackendError as error:
            raise KeyFault(key, "libusb, which pyusb needs, is not there") from error
        except usb.core.USBError as error:
            raise self._error(error, "opening it") from error
        if self._device is None:
            raise KeyLost(key, "opening it")
        try:
            self._refuse_serial_port_in_use(device)
            self._claim()
        except usb.core.USBError as error:
            self.close()
            raise self._error(error, "opening it") from error
        except BaseException:
            self.close()
            raise

    def _refuse_serial_port_in_use(self, device: UsbDevice) -> None:
        # Detaching would hang the port up under its user: the kernel does not ask.
        for port in scan.serial_ports(device):
            if user := scan.holder(port):
                raise KeyInUse(self.key, user)

    def _claim(self) -> None:
        configuration = self._device.get_active_configuration()
        for interface in configuration:
            number = interface.bInterfaceNumber
            self._taken.append(number)
            if self._device.is_kernel_driver_active(number):
                self._detach_kernel_driver(number)
            usb.util.claim_interface(self._device, number)
        interfaces = sorted(configuration, key=lambda found: found.bInterfaceClass != _CDC_DATA)
        for interface in interfaces:
            self._in = _bulk_endpoint(interface, usb.util.ENDPOINT_IN)
            self._out = _bulk_endpoint(interface, usb.util.ENDPOINT_OUT)
            if self._in is not None and self._out is not None:
                return
        raise KeyFault(self.key, "it has no pair of bulk endpoints")

    def _detach_kernel_driver(self, number: int) -> None:
        try:
            self._device.detach_kernel_driver(number)
        except usb.core.USBError as error:
            if error.errno != errno.ENOENT:  # another program was faster: claiming will tell
                raise

    def read(self, size: int, timeout_ms: int) -> bytes:
        """See Transport.read; a `size` below one packet counts as one. It waits until all of it has come.

        A short packet ends that early, and so does the time: what has come by
        then is returned, for a transfer that is cancelled keeps what it had
        received (libusb 1.0, "Synchronous device I/O").
        """
        self._refuse_closed("being read")
        packet_bytes = self._in.wMaxPacketSize
        # Whole packets: the last one of a transfer would not fit into less (LIBUSB_ERROR_OVERFLOW).
        wanted = max(packet_bytes, size - size % packet_bytes)
        try:
            # NB: 1 ms at least, for 0 means for ever to libusb.
            return bytes(self._in.read(wanted, max(1, timeout_ms)))
        except usb.core.USBTimeoutError:
            return b""
        except usb.core.USBError as error:
            raise self._error(error, "being read") from error

    def write(self, data: bytes, timeout_ms: int) -> None:
        """See Transport.write."""
        self._refuse_closed("being written to")
        try:
            sent = self._out.write(data, max(1, timeout_ms))
        except usb.core.USBError as error:
            raise self._error(error, "being written to") from error
        if sent != len(data):
            raise KeyFault(self.key, f"it took {sent} of {len(data)} bytes")

    def close(self) -> None:
        """Give the interfaces to the kernel's drivers, as after plugging in; a second call does nothing.

        Whoever had the key before us may have been killed before it gave it back:
        so they are offered whether or not we found a driver there.
        """
        self._closed = True
        usb.util.dispose_resources(self._device)
        while self._taken:
            number = self._taken.pop()
            try:
                self._device.attach_kernel_driver(number)
            except (usb.core.USBError, NotImplementedError) as error:
                # Unplugged, without a driver, or bound together with the interface before it.
                log.debug("%s: interface %d was not given back: %s", self.key, number, error)
        usb.util.dispose_resources(self._device)

    def _refuse_closed(self, doing: str) -> None:
        if self._closed:  # pyusb would open it again
            raise KeyLost(self.key, doing)

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
