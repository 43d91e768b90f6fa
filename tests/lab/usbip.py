# SPDX-License-Identifier: LGPL-2.1-or-later
"""A simulated Entropy Key on a USB bus: a CDC-ACM device, and the device's end of a USB/IP connection.

The other end belongs to the kernel's vhci_hcd, which makes a USB host controller of it: usbcore enumerates
the key, cdc_acm binds it, libusb opens it, as if it were plugged in.

Source: the kernel's Documentation/usb/usbip_protocol.rst (6.1); USB 2.0 chapter 9; CDC 1.2 and its PSTN
subclass 1.2. Which descriptors the real key has: reference/entropy-key.md, section 1.
"""

import errno
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

VENDOR_ID, PRODUCT_ID = 0x20DF, 0x0001
# transport.scan knows a simulated key by this.
MANUFACTURER = "Simtec Electronics, simulated by virtrng"
PRODUCT = "Entropy Key"
PACKET_BYTES = 64
# Endpoint numbers; the IN ones appear as 0x81 and 0x82.
BULK_IN, NOTIFICATION_IN, BULK_OUT = 1, 2, 3


class Firmware(Protocol):
    """What is behind the endpoints: virtrng.sim's keys. Seconds are of whatever clock serves them."""

    @property
    def serial(self) -> str: ...

    @property
    def next_due_s(self) -> float: ...

    def advance(self, now_s: float) -> None: ...

    def take(self, size: int) -> bytes: ...

    def receive(self, packet: bytes) -> None: ...


# --- the device


class Descriptor(IntEnum):
    """bDescriptorType: USB 2.0 table 9-5, CDC 1.2 table 12."""

    DEVICE = 1
    CONFIGURATION = 2
    STRING = 3
    INTERFACE = 4
    ENDPOINT = 5
    CS_INTERFACE = 0x24


class Request(IntEnum):
    """bmRequestType and bRequest as one number: USB 2.0 table 9-3, PSTN 1.2 table 13."""

    GET_DESCRIPTOR = 0x8006
    GET_CONFIGURATION = 0x8008
    SET_CONFIGURATION = 0x0009
    GET_DEVICE_STATUS = 0x8000
    GET_INTERFACE_STATUS = 0x8100
    GET_ENDPOINT_STATUS = 0x8200
    CLEAR_ENDPOINT_FEATURE = 0x0201
    GET_INTERFACE = 0x810A
    SET_INTERFACE = 0x010B
    SET_LINE_CODING = 0x2120
    GET_LINE_CODING = 0xA121
    SET_CONTROL_LINE_STATE = 0x2122
    SEND_BREAK = 0x2123


# There is one setting of each interface, no endpoint ever halts, and no line is behind the serial port.
NOTHING_TO_DO = {
    Request.CLEAR_ENDPOINT_FEATURE,
    Request.SET_INTERFACE,
    Request.SET_CONTROL_LINE_STATE,
    Request.SEND_BREAK,
}
ANSWERS = {
    Request.GET_DEVICE_STATUS: b"\0\0",
    Request.GET_INTERFACE_STATUS: b"\0\0",
    Request.GET_ENDPOINT_STATUS: b"\0\0",
    Request.GET_INTERFACE: b"\0",
}


def _descriptor(kind: Descriptor, body: bytes) -> bytes:
    return bytes([len(body) + 2, kind]) + body


def _endpoint(address: int, transfer_type: int, packet_bytes: int, interval: int) -> bytes:
    return _descriptor(
        Descriptor.ENDPOINT, struct.pack("<BBHB", address, transfer_type, packet_bytes, interval)
    )


DEVICE_DESCRIPTOR = _descriptor(
    Descriptor.DEVICE,
    # USB 2.00, class CDC, no subclass or protocol; bcdDevice 2.00; strings 1, 2, 3; one configuration
    struct.pack("<HBBBBHHHBBBB", 0x0200, 2, 0, 0, PACKET_BYTES, VENDOR_ID, PRODUCT_ID, 0x0200, 1, 2, 3, 1),
)
_INTERFACES = b"".join(
    (
        # Interface 0, one endpoint: CDC communications, abstract control model, AT commands
        _descriptor(Descriptor.INTERFACE, bytes([0, 0, 1, 2, 2, 1, 0])),
        _descriptor(Descriptor.CS_INTERFACE, struct.pack("<BH", 0, 0x0110)),  # header: CDC 1.10
        _descriptor(Descriptor.CS_INTERFACE, bytes([1, 0, 1])),  # call management: none, data interface 1
        _descriptor(Descriptor.CS_INTERFACE, bytes([2, 2])),  # ACM: line coding and state
        _descriptor(Descriptor.CS_INTERFACE, bytes([6, 0, 1])),  # union: 0 controls 1
        _endpoint(0x80 | NOTIFICATION_IN, 3, 8, 255),
        # Interface 1, two endpoints: CDC data
        _descriptor(Descriptor.INTERFACE, bytes([1, 0, 2, 10, 0, 0, 0])),
        _endpoint(0x80 | BULK_IN, 2, PACKET_BYTES, 0),
        _endpoint(BULK_OUT, 2, PACKET_BYTES, 0),
    )
)
# Two interfaces, configuration 1 without a name, powered by the bus, 76 mA in units of 2
CONFIGURATION_DESCRIPTOR = (
    _descriptor(
        Descriptor.CONFIGURATION, struct.pack("<HBBBBB", 9 + len(_INTERFACES), 2, 1, 0, 0x80, 76 // 2)
    )
    + _INTERFACES
)
ENGLISH = _descriptor(Descriptor.STRING, struct.pack("<H", 0x0409))


class ControlEndpoint:
    """Endpoint 0: tells what the device is, and takes its settings."""

    def __init__(self, serial: str) -> None:
        self._configuration = 0
        self._line_coding = struct.pack("<IBBB", 115200, 0, 0, 8)
        strings = (
            _descriptor(Descriptor.STRING, text.encode("utf-16-le"))
            for text in (MANUFACTURER, PRODUCT, serial)
        )
        self._descriptors = {
            (Descriptor.DEVICE, 0): DEVICE_DESCRIPTOR,
            (Descriptor.CONFIGURATION, 0): CONFIGURATION_DESCRIPTOR,
            **{(Descriptor.STRING, index): text for index, text in enumerate((ENGLISH, *strings))},
        }

    def answer(self, setup: bytes, data: bytes) -> bytes | None:
        """Return the bytes of the data stage, b"" if there are none to send, None for a stall."""
        request, value, _index, length = struct.unpack(">H", setup[:2]) + struct.unpack("<HHH", setup[2:])
        match request:
            case Request.GET_DESCRIPTOR:
                found = self._descriptors.get((value >> 8, value & 0xFF))
                return None if found is None else found[:length]
            case Request.GET_CONFIGURATION:
                return bytes([self._configuration])
            case Request.SET_CONFIGURATION if value <= 1:
                self._configuration = value
            case Request.GET_LINE_CODING:
                return self._line_coding[:length]
            case Request.SET_LINE_CODING:
                self._line_coding = data
            case _ if request not in NOTHING_TO_DO:
                return ANSWERS.get(request)
        return b""


# --- the connection

CMD_SUBMIT, CMD_UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
DIRECTION_IN = 1
# command, seqnum, devid, direction, endpoint; then what the command has
COMMAND = struct.Struct(">5I28s")
# transfer flags, transfer_buffer_length, start_frame, number_of_packets, interval, setup
SUBMIT = struct.Struct(">IiiiI8s")
# status, actual_length, start_frame, number_of_packets, error_count
SUBMITTED = struct.Struct(">5I5i8x")
UNLINKED = struct.Struct(">5Ii24x")


@dataclass(frozen=True, slots=True)
class Transfer:
    """What CMD_SUBMIT asks for."""

    seqnum: int
    endpoint: int
    incoming: bool
    length: int
    setup: bytes
    data: bytes


class UsbipServer:
    """Serves one simulated key to the kernel, on a connected stream socket, from plug to unplug."""

    def __init__(
        self, connection: socket.socket, firmware: Firmware, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connection = connection
        self._firmware = firmware
        self._clock = clock
        self._control = ControlEndpoint(firmware.serial)
        self._held: dict[int, Transfer] = {}  # IN transfers that wait for bytes, oldest first
        self._waiting = bytearray()

    def serve(self) -> None:
        """Answer until the kernel closes the connection, as it does when the key is unplugged."""
        try:
            while True:
                wait_s = max(0.0, self._firmware.next_due_s - self._clock())
                if select.select([self._connection], [], [], wait_s)[0]:
                    self._answer(*COMMAND.unpack(self._exactly(COMMAND.size)))
                self._firmware.advance(self._clock())
                self._fill()
        except (EOFError, ConnectionError):
            return

    def _exactly(self, size: int) -> bytes:
        received = self._connection.recv(size, socket.MSG_WAITALL)
        if len(received) < size:
            raise EOFError
        return received

    def _answer(
        self, command: int, seqnum: int, _devid: int, direction: int, endpoint: int, rest: bytes
    ) -> None:
        if command == CMD_UNLINK:
            (unlinked,) = struct.unpack(">I24x", rest)
            # One that is no longer held was answered just now; then 0 says so.
            status = -errno.ECONNRESET if self._held.pop(unlinked, None) else 0
            self._connection.sendall(UNLINKED.pack(RET_UNLINK, seqnum, 0, 0, 0, status))
            return
        if command != CMD_SUBMIT:
            raise ConnectionError(f"command {command}: the connection is out of step")
        _flags, length, *_iso, setup = SUBMIT.unpack(rest)
        incoming = direction == DIRECTION_IN
        data = b"" if incoming else self._exactly(length)
        self._submit(Transfer(seqnum, endpoint, incoming, length, setup, data))

    def _submit(self, transfer: Transfer) -> None:
        if transfer.endpoint == 0:
            answer = self._control.answer(transfer.setup, transfer.data)
            self._complete(transfer, answer or b"", status=0 if answer is not None else -errno.EPIPE)
        elif transfer.incoming and transfer.endpoint in (BULK_IN, NOTIFICATION_IN):
            self._held[transfer.seqnum] = transfer
        elif transfer.endpoint == BULK_OUT and not transfer.incoming:
            # NB: each transfer is taken for one packet; the key's commands are far shorter than that.
            self._firmware.receive(transfer.data)
            self._complete(transfer)
        else:
            self._complete(transfer, status=-errno.EPIPE)

    def _fill(self) -> None:
        """Complete the bulk IN transfers that there are bytes for; of notifications there is none.

        Only a full buffer ends a transfer: every frame fills its packet, and whether a real key marks the end
        by an empty one is not known. So a read of two packets waits for the second frame.
        """
        for transfer in [held for held in self._held.values() if held.endpoint == BULK_IN]:
            # What a longer transfer collected before it was unlinked goes to the next one.
            self._waiting += self._firmware.take(max(0, transfer.length - len(self._waiting)))
            if len(self._waiting) < transfer.length:
                return
            del self._held[transfer.seqnum]
            self._complete(transfer, bytes(self._waiting[: transfer.length]))
            del self._waiting[: transfer.length]

    def _complete(self, transfer: Transfer, data: bytes = b"", *, status: int = 0) -> None:
        actual = len(data) if transfer.incoming else len(transfer.data)
        header = SUBMITTED.pack(RET_SUBMIT, transfer.seqnum, 0, 0, 0, status, actual, 0, 0, 0)
        self._connection.sendall(header + data)
