# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which USB devices are there, and who holds one: looks into sysfs and /proc, opens nothing."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyudev

SIMULATED_MARK = "simulated by virtrng"

# libudev itself tells by it whether udevd runs (systemd, src/libudev/libudev-monitor.c).
_UDEVD = Path("/run/udev/control")


@dataclass(frozen=True, slots=True)
class UsbDevice:
    """A USB device as its descriptors name it; `node` is its usbfs file."""

    vendor_id: int
    product_id: int
    serial: str
    manufacturer: str
    product: str
    bus: int
    address: int
    node: str

    @property
    def simulated(self) -> bool:
        """Whether it is one of our own simulated keys: they say so in their manufacturer string."""
        return SIMULATED_MARK in self.manufacturer


def usb_devices() -> list[UsbDevice]:
    """List the USB devices that are plugged in, in the order of their buses and addresses."""
    context = pyudev.Context()
    found = context.list_devices(subsystem="usb", DEVTYPE="usb_device")
    devices = [device for device in map(_usb_device, found) if device is not None]
    return sorted(devices, key=lambda device: (device.bus, device.address))


def _usb_device(device: pyudev.Device) -> UsbDevice | None:
    def text(name: str) -> str:
        try:
            return str(device.attributes.asstring(name)).strip()
        except (KeyError, UnicodeDecodeError):
            return ""

    try:
        bus, address = int(text("busnum")), int(text("devnum"))
        vendor_id, product_id = int(text("idVendor"), 16), int(text("idProduct"), 16)
    except ValueError:  # unplugged while sysfs was read
        return None
    return UsbDevice(
        vendor_id=vendor_id,
        product_id=product_id,
        serial=text("serial"),
        manufacturer=text("manufacturer"),
        product=text("product"),
        bus=bus,
        address=address,
        node=f"/dev/bus/usb/{bus:03d}/{address:03d}",
    )


class Plugs:
    """Is readable when a USB device has come, and udev's rules were applied to it, or gone."""

    def __init__(self) -> None:
        """Listen from now on. Raises OSError where there is no netlink socket to be had."""
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context())
        self._monitor.filter_by("usb", "usb_device")
        self._monitor.start()

    @property
    def heard(self) -> bool:
        """Whether there is anybody to tell: without udevd one has to look from time to time."""
        return _UDEVD.exists()

    def fileno(self) -> int:
        """Return its socket."""
        return int(self._monitor.fileno())

    def drain(self) -> None:
        """Take what was told; what is there now is for usb_devices() to say."""
        # More than the socket could hold is an error, and there is something to look at all the same.
        with suppress(OSError):
            while self._monitor.poll(0):
                pass


def serial_ports(device: UsbDevice) -> list[str]:
    """Name the nodes of the serial ports that a driver of the kernel's made of `device`."""
    ports = pyudev.Context().list_devices(subsystem="tty")
    parents = ((port, port.find_parent("usb", "usb_device")) for port in ports)
    return [
        str(port.device_node)
        for port, parent in parents
        if parent is not None and parent.device_node == device.node
    ]


def holder(node: str) -> str | None:
    """Name a process that has `node` open, as 'NAME (pid N)'; None if none can be seen.

    The one at the other end of a pseudo-terminal is no holder: it is what is there.
    Only root sees the descriptors of other users' processes (proc(5)).
    """
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            files = _open_files(process)
            if node in files.values() and not _at_other_end(process, files, node):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # ended meanwhile, or not ours to look into
            continue
    return None


def _open_files(process: Path) -> dict[str, str]:
    """Return descriptor and file of all that the process has open, without those it closes meanwhile."""
    files = {}
    for fd in (process / "fd").iterdir():
        with suppress(FileNotFoundError):
            files[fd.name] = os.readlink(fd)
    return files


def _at_other_end(process: Path, files: Mapping[str, str], node: str) -> bool:
    """Whether the process has the other end of the pseudo-terminal `node` open, if that is one."""
    terminal = re.fullmatch(r"/dev/pts/(\d+)", node)
    if not terminal:
        return False
    others = (fd for fd, name in files.items() if name in ("/dev/ptmx", "/dev/pts/ptmx"))
    # Since Linux 4.14 the kernel says which terminal it is the other end of.
    return any(f"tty-index:\t{terminal[1]}\n" in (process / "fdinfo" / fd).read_text() for fd in others)
