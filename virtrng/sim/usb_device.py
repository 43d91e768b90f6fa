# SPDX-License-Identifier: LGPL-2.1-or-later
"""An Entropy Key as its host sees it on the bus: the descriptors of a CDC-ACM device, and endpoint 0.

Source: USB 2.0 chapter 9; CDC 1.2 and its PSTN subclass 1.2. Which descriptors the real key has:
docs/protocol/entropy-key.md.
"""

import struct
from enum import IntEnum

VENDOR_ID, PRODUCT_ID = 0x20DF, 0x0001
# transport.scan knows a simulated key by this.
MANUFACTURER = "Simtec Electronics, simulated by virtrng"
PRODUCT = "Entropy Key"
PACKET_BYTES = 64
# Endpoint numbers; the IN ones appear as 0x81 and 0x82.
BULK_IN, NOTIFICATION_IN, BULK_OUT = 1, 2, 3
# What USB/IP tells of the device before anybody has asked it for a descriptor.
DEVICE_RELEASE = 0x0200
DEVICE_CLASS = bytes([2, 0, 0])  # class, subclass, protocol: CDC
INTERFACE_CLASSES = (bytes([2, 2, 1]), bytes([10, 0, 0]))  # abstract control model with AT commands; CDC data
CONFIGURATION = 1


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
    struct.pack("<H3sB", 0x0200, DEVICE_CLASS, PACKET_BYTES)
    + struct.pack("<HHHBBBB", VENDOR_ID, PRODUCT_ID, DEVICE_RELEASE, 1, 2, 3, 1),
)
_INTERFACES = b"".join(
    (
        # Interface 0, one endpoint: CDC communications, abstract control model, AT commands
        _descriptor(Descriptor.INTERFACE, bytes([0, 0, 1, *INTERFACE_CLASSES[0], 0])),
        _descriptor(Descriptor.CS_INTERFACE, struct.pack("<BH", 0, 0x0110)),  # header: CDC 1.10
        _descriptor(Descriptor.CS_INTERFACE, bytes([1, 0, 1])),  # call management: none, data interface 1
        _descriptor(Descriptor.CS_INTERFACE, bytes([2, 2])),  # ACM: line coding and state
        _descriptor(Descriptor.CS_INTERFACE, bytes([6, 0, 1])),  # union: 0 controls 1
        _endpoint(0x80 | NOTIFICATION_IN, 3, 8, 255),
        # Interface 1, two endpoints: CDC data
        _descriptor(Descriptor.INTERFACE, bytes([1, 0, 2, *INTERFACE_CLASSES[1], 0])),
        _endpoint(0x80 | BULK_IN, 2, PACKET_BYTES, 0),
        _endpoint(BULK_OUT, 2, PACKET_BYTES, 0),
    )
)
# Two interfaces, configuration 1 without a name, powered by the bus, 76 mA in units of 2
CONFIGURATION_DESCRIPTOR = (
    _descriptor(
        Descriptor.CONFIGURATION,
        struct.pack("<HBBBBB", 9 + len(_INTERFACES), 2, CONFIGURATION, 0, 0x80, 76 // 2),
    )
    + _INTERFACES
)
ENGLISH = _descriptor(Descriptor.STRING, struct.pack("<H", 0x0409))


class ControlEndpoint:
    """Endpoint 0: tells what the device is, and takes its settings."""

    def __init__(self, serial: str) -> None:
        """Endpoint 0 of the key with this serial, which is not configured yet."""
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
            case Request.SET_CONFIGURATION if value <= CONFIGURATION:
                self._configuration = value
            case Request.GET_LINE_CODING:
                return self._line_coding[:length]
            case Request.SET_LINE_CODING:
                self._line_coding = data
            case _ if request not in NOTHING_TO_DO:
                return ANSWERS.get(request)
        return b""
