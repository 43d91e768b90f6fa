# SPDX-License-Identifier: LGPL-2.1-or-later
"""A pyusb backend with one CDC-ACM key behind it: it answers as a simulated one, and fails as told."""

import errno
import os
from array import array
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import usb.backend
import usb.core

from virtrng.transport.scan import UsbDevice

BUS, ADDRESS = 3, 7
KEY = "entropykey:serial=" + "SIMULATED+KEY/01"
DEVICE = UsbDevice(
    vendor_id=0x20DF,
    product_id=0x0001,
    serial="SIMULATED+KEY/01",
    manufacturer="Simtec Electronics",
    product="Entropy Key",
    bus=BUS,
    address=ADDRESS,
    node=f"/dev/bus/usb/{BUS:03d}/{ADDRESS:03d}",
)
BULK_OUT, BULK_IN, INTERRUPT_IN = 0x01, 0x82, 0x83
BULK, INTERRUPT = 2, 3


def usb_error(number: int) -> usb.core.USBError:
    """Make the error that pyusb's libusb backend raises for an errno."""
    kind = usb.core.USBTimeoutError if number == errno.ETIMEDOUT else usb.core.USBError
    return kind(os.strerror(number), -1, number)


def endpoint(address: int, kind: int, packet_bytes: int = 64) -> SimpleNamespace:
    return SimpleNamespace(
        bLength=7, bDescriptorType=5, bEndpointAddress=address, bmAttributes=kind,
        wMaxPacketSize=packet_bytes, bInterval=1, bRefresh=0, bSynchAddress=0, extra_descriptors=b"",
    )  # fmt: skip


class Backend(usb.backend.IBackend):  # type: ignore[misc]  # pyusb comes without annotations
    """Descriptors of a CDC-ACM device: interface 0 to control it, 1 with its bytes.

    `wire` is a transport; `fail` maps the name of a method to the errno of its
    error; `calls` records what was asked for.
    """

    def __init__(self, wire: Any = None) -> None:
        self.wire = wire
        self.fail: dict[str, int] = {}
        self.calls: list[tuple[str, int]] = []
        self.timeouts_ms: list[int] = []
        self.sizes: list[int] = []
        self.bound = {0: True, 1: True}
        self.claimed: set[int] = set()
        self.opened = 0
        self.short_write = 0
        self.present = True
        self.data_class = 0x0A
        self.endpoints = {
            0: [endpoint(INTERRUPT_IN, INTERRUPT, 8)],
            1: [endpoint(BULK_IN, BULK), endpoint(BULK_OUT, BULK)],
        }

    def _call(self, name: str, interface: int = -1) -> None:
        self.calls.append((name, interface))
        if name in self.fail:
            raise usb_error(self.fail[name])

    def enumerate_devices(self) -> Iterator[str]:
        self._call("enumerate")
        return iter(["key"] if self.present else [])

    def get_device_descriptor(self, dev: str) -> SimpleNamespace:
        return SimpleNamespace(
            bLength=18, bDescriptorType=1, bcdUSB=0x200, bDeviceClass=2, bDeviceSubClass=0, bDeviceProtocol=0,
            bMaxPacketSize0=64, idVendor=0x20DF, idProduct=1, bcdDevice=0x100, iManufacturer=1, iProduct=2,
            iSerialNumber=3, bNumConfigurations=1, address=ADDRESS, bus=BUS, port_number=1,
            port_numbers=(1,), speed=2,
        )  # fmt: skip

    def get_configuration_descriptor(self, dev: str, config: int) -> SimpleNamespace:
        return SimpleNamespace(
            bLength=9, bDescriptorType=2, wTotalLength=67, bNumInterfaces=2, bConfigurationValue=1,
            iConfiguration=0, bmAttributes=0xC0, bMaxPower=50, extra_descriptors=b"",
        )  # fmt: skip

    def get_interface_descriptor(self, dev: str, intf: int, alt: int, config: int) -> SimpleNamespace:
        if intf not in self.endpoints or alt:
            raise IndexError(intf)
        return SimpleNamespace(
            bLength=9, bDescriptorType=4, bInterfaceNumber=intf, bAlternateSetting=0,
            bNumEndpoints=len(self.endpoints[intf]), bInterfaceClass=(2, self.data_class)[intf],
            bInterfaceSubClass=0, bInterfaceProtocol=0, iInterface=0, extra_descriptors=b"",
        )  # fmt: skip

    def get_endpoint_descriptor(self, dev: str, ep: int, intf: int, alt: int, config: int) -> SimpleNamespace:
        return self.endpoints[intf][ep]

    def open_device(self, dev: str) -> str:
        self._call("open")
        self.opened += 1
        return "handle"

    def close_device(self, dev_handle: str) -> None:
        self.opened -= 1

    def get_configuration(self, dev_handle: str) -> int:
        self._call("get_configuration")
        return 1

    def is_kernel_driver_active(self, dev_handle: str, intf: int) -> bool:
        self._call("active", intf)
        return self.bound[intf]

    def detach_kernel_driver(self, dev_handle: str, intf: int) -> None:
        # The kernel says ENOENT when there is no driver (any more): another program was faster.
        self.bound[intf] &= self.fail.get("detach", errno.ENOENT) != errno.ENOENT
        self._call("detach", intf)

    def attach_kernel_driver(self, dev_handle: str, intf: int) -> None:
        self._call("attach", intf)
        assert not self.claimed, "cdc_acm takes both interfaces, and neither may be claimed then"
        self.bound[intf] = True

    def claim_interface(self, dev_handle: str, intf: int) -> None:
        self._call("claim", intf)
        assert not self.bound[intf]
        self.claimed.add(intf)

    def release_interface(self, dev_handle: str, intf: int) -> None:
        self.claimed.discard(intf)
        self._call("release", intf)

    def bulk_read(self, dev_handle: str, ep: int, intf: int, buff: "array[int]", timeout: int) -> int:
        assert (ep, intf, intf in self.claimed) == (BULK_IN, 1, True)
        self.timeouts_ms.append(timeout)
        self.sizes.append(len(buff))
        self._call("read", intf)
        arrived = self.wire.read(len(buff), timeout)
        if not arrived:
            raise usb_error(errno.ETIMEDOUT)
        buff[: len(arrived)] = array("B", arrived)
        return len(arrived)

    def bulk_write(self, dev_handle: str, ep: int, intf: int, data: "array[int]", timeout: int) -> int:
        assert (ep, intf, intf in self.claimed) == (BULK_OUT, 1, True)
        self.timeouts_ms.append(timeout)
        self._call("write", intf)
        self.wire.write(bytes(data), timeout)
        return len(data) - self.short_write

    @property
    def given_back(self) -> bool:
        """Whether all is as it was before anybody came."""
        return self.bound == {0: True, 1: True} and not self.claimed and self.opened == 0
