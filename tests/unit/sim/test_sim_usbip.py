# SPDX-License-Identifier: LGPL-2.1-or-later
"""A key over USB/IP, on a real loopback socket: the handshake's bytes, transfers, clients that misbehave."""

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from virtrng.errors import PlaceTaken
from virtrng.sim import usb_device, usbip
from virtrng.transport.scan import SIMULATED_MARK

PATIENCE_S = 60.0
SERIAL = "NwBvBlg3OTBJORFD"
DEVLIST = bytes.fromhex("0111 8005 00000000")
IMPORT = bytes.fromhex("0111 8003 00000000") + b"1-1".ljust(32, b"\0")
# usbip_protocol.rst, OP_REP_DEVLIST, from offset 0x0C on
DEVICE = (
    b"/virtrng/simulate".ljust(256, b"\0")
    + b"1-1".ljust(32, b"\0")
    + bytes.fromhex("00000001 00000001 00000002")  # bus, device, full speed
    + bytes.fromhex("20df 0001 0200  02 00 00  01 01 02")
)
INTERFACES = bytes.fromhex("02020100 0a000000")
IN, OUT = 1, 0


@dataclass
class Firmware:
    """A key that says what it is given to say."""

    says: bytearray = field(default_factory=bytearray)
    heard: list[bytes] = field(default_factory=list)
    plugged_in: int = 0
    unplugged: bool = False
    serial: str = SERIAL
    next_due_s: float = 1e9

    def plug_in(self, now_s: float) -> None:
        self.plugged_in += 1

    def advance(self, now_s: float) -> None:
        pass

    def take(self, size: int) -> bytes:
        taken = bytes(self.says[:size])
        del self.says[:size]
        return taken

    def receive(self, packet: bytes) -> None:
        self.heard.append(packet)
        self.unplugged = packet == b"unplug"


class Client:
    """One connection to the server."""

    def __init__(self, port: int) -> None:
        self.stream = socket.create_connection((usbip.HOST, port), PATIENCE_S)
        self.seqnum = 0

    def exactly(self, size: int) -> bytes:
        received = self.stream.recv(size, socket.MSG_WAITALL)
        assert len(received) == size
        return received

    def imported(self) -> "Client":
        self.stream.sendall(IMPORT)
        assert self.exactly(8 + len(DEVICE)) == bytes.fromhex("0111 0003 00000000") + DEVICE
        return self

    def submit(
        self, endpoint: int, direction: int, length: int, data: bytes = b"", setup: bytes = bytes(8)
    ) -> int:
        self.seqnum += 1
        header = struct.pack(">5I", 1, self.seqnum, usbip.DEVID, direction, endpoint)
        self.stream.sendall(header + struct.pack(">IiiiI8s", 0, length, 0, 0, 0, setup) + data)
        return self.seqnum

    def unlink(self, unlinked: int) -> None:
        self.seqnum += 1
        self.stream.sendall(struct.pack(">6I24x", 2, self.seqnum, usbip.DEVID, 0, 0, unlinked))

    def reply(self) -> tuple[int, ...]:
        """Return command, seqnum, status, actual_length of the next reply."""
        command, seqnum, *_, status, actual = struct.unpack(">5I2i20x", self.exactly(48))
        return command, seqnum, status, actual

    def told(self, request: int, value: int, length: int = 255) -> bytes | None:
        """Return what a control request gives, None for a stall."""
        setup = request.to_bytes(2, "big") + struct.pack("<HHH", value, 0, length)
        seqnum = self.submit(0, IN, length, setup=setup)
        command, answered, status, actual = self.reply()
        assert (command, answered) == (3, seqnum)
        assert status in (0, -errno.EPIPE)
        return self.exactly(actual) if status == 0 else None

    def is_closed(self) -> bool:
        try:
            return self.stream.recv(1) == b""
        except ConnectionResetError:  # it had not read all that we sent
            return True


@dataclass
class Running:
    """A server in a thread, and how to reach it."""

    firmware: Firmware
    port: int
    connect: Callable[[], Client]
    thread: threading.Thread


@contextmanager
def running() -> Iterator[Running]:
    """Serve a key until the block ends."""
    firmware = Firmware()
    clients: list[Client] = []
    stop, stopping = os.pipe()
    with usbip.listening(0) as listener:
        port = listener.getsockname()[1]

        def connect() -> Client:
            clients.append(Client(port))
            return clients[-1]

        thread = threading.Thread(target=usbip.Server(firmware).serve, args=(listener, stop))
        thread.start()
        try:
            yield Running(firmware, port, connect, thread)
        finally:
            os.write(stopping, b"x")
            thread.join()
            for client in clients:
                client.stream.close()
            os.close(stop)
            os.close(stopping)


@pytest.fixture
def key() -> Iterator[Running]:
    with running() as key:
        yield key


# --- the handshake


def test_the_list_of_devices_and_the_end(key: Running) -> None:
    client = key.connect()
    client.stream.sendall(DEVLIST)
    listed = client.exactly(12 + len(DEVICE) + len(INTERFACES))
    assert listed == bytes.fromhex("0111 0005 00000000 00000001") + DEVICE + INTERFACES
    assert client.is_closed()


def test_it_listens_on_loopback_alone() -> None:
    with usbip.listening(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_one_importer_at_a_time(key: Running) -> None:
    first = key.connect().imported()
    second, third = key.connect(), key.connect()
    second.stream.sendall(IMPORT)
    assert second.exactly(8) == bytes.fromhex("0111 0003 00000002")
    assert second.is_closed()
    third.stream.sendall(DEVLIST)
    assert third.exactly(12) == bytes.fromhex("0111 0005 00000000 00000000")
    assert third.is_closed()
    assert first.told(0x8006, 0x0100) == usb_device.DEVICE_DESCRIPTOR


def test_after_one_importer_another(key: Running) -> None:
    first = key.connect().imported()
    assert first.told(0x0009, 1) == b""
    assert first.told(0x8008, 0) == b"\x01"
    first.stream.shutdown(socket.SHUT_WR)
    assert first.is_closed()
    again = key.connect().imported()
    assert again.told(0x8008, 0) == b"\0"  # not configured: it was just plugged in
    assert key.firmware.plugged_in == 2


def test_a_device_that_is_not_there(key: Running) -> None:
    for busid in (b"1-2", b"1-1.1", b"1-1x", b""):
        client = key.connect()
        client.stream.sendall(IMPORT[:8] + busid.ljust(32, b"\0"))
        assert client.exactly(8) == bytes.fromhex("0111 0003 00000004")
        assert client.is_closed()


def test_a_request_that_comes_in_pieces(key: Running) -> None:
    client = key.connect()
    client.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in range(len(IMPORT)):
        client.stream.sendall(IMPORT[number : number + 1])
    assert client.exactly(8 + len(DEVICE))[:8] == bytes.fromhex("0111 0003 00000000")


def test_commands_may_come_with_the_request(key: Running) -> None:
    client = key.connect()
    client.stream.sendall(IMPORT + struct.pack(">6I24x", 2, 7, usbip.DEVID, 0, 0, 99))
    client.exactly(8 + len(DEVICE))
    assert client.reply() == (4, 7, 0, 0)


@pytest.mark.parametrize(
    "request_",
    [
        bytes.fromhex("0106 8005 00000000"),  # a version of before
        bytes.fromhex("0111 8006 00000000"),
        bytes.fromhex("0111 0005 00000000"),  # a reply
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(64),
    ],
    ids=["version", "code", "reply", "http", "zeros"],
)
def test_what_is_no_request_is_closed_and_harms_no_other(key: Running, request_: bytes) -> None:
    importer = key.connect().imported()
    client = key.connect()
    client.stream.sendall(request_)
    assert client.is_closed()
    assert importer.told(0x8006, 0x0100) == usb_device.DEVICE_DESCRIPTOR


def test_half_a_request_and_gone(key: Running) -> None:
    for size in (0, 4, 8, 20):
        client = key.connect()
        client.stream.sendall(IMPORT[:size])
        client.stream.shutdown(socket.SHUT_WR)
        assert client.is_closed()


def test_of_those_who_never_ask_the_oldest_gives_way(key: Running) -> None:
    importer = key.connect().imported()
    silent = [key.connect() for _ in range(usbip.ASKING_MAX + 1)]
    assert silent[0].is_closed()
    silent[-1].stream.sendall(DEVLIST)
    assert silent[-1].exactly(12)[:4] == bytes.fromhex("0111 0005")
    assert importer.told(0x8006, 0x0100) == usb_device.DEVICE_DESCRIPTOR


# --- the transfers


def test_what_it_says_that_it_is(key: Running) -> None:
    client = key.connect().imported()
    device = client.told(0x8006, 0x0100)
    assert device is not None
    assert device.hex(" ") == "12 01 00 02 02 00 00 40 df 20 01 00 00 02 01 02 03 01"
    head = client.told(0x8006, 0x0200, 9)
    assert head is not None
    whole = client.told(0x8006, 0x0200, int.from_bytes(head[2:4], "little"))
    assert whole is not None
    kinds = []
    while whole:
        kinds.append(whole[1])
        whole = whole[whole[0] :]
    assert kinds == [2, 4, 0x24, 0x24, 0x24, 0x24, 5, 4, 5, 5]
    strings = [client.told(0x8006, 0x0300 + index) or b"" for index in (1, 2, 3)]
    assert [text[2:].decode("utf-16-le") for text in strings] == [
        usb_device.MANUFACTURER,
        "Entropy Key",
        SERIAL,
    ]
    assert SIMULATED_MARK in usb_device.MANUFACTURER
    assert client.told(0x8006, 0x0600) is None  # a full-speed device has no qualifier
    assert client.told(0x8008, 0, 0) == b""  # never more than was asked for


def test_a_read_waits_for_its_bytes_and_can_be_taken_back(key: Running) -> None:
    client = key.connect().imported()
    waiting, notification = client.submit(1, IN, 64), client.submit(2, IN, 8)
    client.unlink(waiting)
    assert client.reply() == (4, client.seqnum, -errno.ECONNRESET, 0)
    client.unlink(waiting)
    assert client.reply() == (4, client.seqnum, 0, 0)
    key.firmware.says += bytes(range(64)) * 2
    first, second = client.submit(1, IN, 64), client.submit(1, IN, 64)
    for seqnum in (first, second):
        assert client.reply() == (3, seqnum, 0, 64)
        assert client.exactly(64) == bytes(range(64))
    client.unlink(notification)
    assert client.reply() == (4, client.seqnum, -errno.ECONNRESET, 0)


def test_a_read_that_is_taken_back_keeps_what_it_had(key: Running) -> None:
    client = key.connect().imported()
    key.firmware.says += bytes(range(64))
    long = client.submit(1, IN, 192)
    client.told(0x8006, 0x0300)  # by the second answer after it the first packet is there
    client.told(0x8006, 0x0300)
    client.unlink(long)
    assert client.reply() == (3, long, 0, 64)
    assert client.exactly(64) == bytes(range(64))
    assert client.reply() == (4, client.seqnum, 0, 0)
    key.firmware.says += bytes(64)
    again = client.submit(1, IN, 64)
    assert client.reply() == (3, again, 0, 64)
    assert client.exactly(64) == bytes(64)


def test_what_is_written_reaches_the_key(key: Running) -> None:
    client = key.connect().imported()
    seqnum = client.submit(3, OUT, 5, b"hello")
    assert client.reply() == (3, seqnum, 0, 5)
    assert key.firmware.heard == [b"hello"]


@pytest.mark.parametrize(("endpoint", "direction"), [(3, IN), (1, OUT), (2, OUT), (15, IN)])
def test_an_endpoint_that_is_none_stalls(key: Running, endpoint: int, direction: int) -> None:
    client = key.connect().imported()
    seqnum = client.submit(endpoint, direction, 0)
    assert client.reply()[:3] == (3, seqnum, -errno.EPIPE)


@pytest.mark.parametrize(
    "command",
    [
        struct.pack(">5I28x", 3, 1, usbip.DEVID, 0, 0),
        struct.pack(">5IIiiiI8x", 1, 1, usbip.DEVID, OUT, 3, 0, -1, 0, 0, 0),
        struct.pack(">5IIiiiI8x", 1, 1, usbip.DEVID, IN, 1, 0, usbip.TRANSFER_BYTES_MAX + 1, 0, 0, 0),
        struct.pack(">5IIiiiI8x", 1, 1, usbip.DEVID, IN, 1, 0, 64, 0, 8, 0),
    ],
    ids=["command", "negative", "huge", "isochronous"],
)
def test_what_is_no_command_ends_the_import(key: Running, command: bytes) -> None:
    client = key.connect().imported()
    client.stream.sendall(command)
    assert client.is_closed()
    key.connect().imported()


def test_an_importer_that_holds_too_much_is_left(key: Running) -> None:
    client = key.connect().imported()
    with suppress(ConnectionError):  # closed while we still send
        for _ in range(usbip.HELD_MAX + 1):
            client.submit(1, IN, 64)
    assert client.is_closed()


def test_an_importer_that_does_not_read_stops_neither_the_others_nor_the_end(key: Running) -> None:
    client = key.connect().imported()
    client.stream.settimeout(0)
    setup = bytes.fromhex("8006 0002 0000 ff00")
    header = struct.pack(">5IIiiiI8s", 1, 1, usbip.DEVID, IN, 0, 0, 255, 0, 0, 0, setup)
    with suppress(BlockingIOError):
        while True:
            client.stream.send(header * 1000)
    other = key.connect()
    other.stream.sendall(DEVLIST)
    assert other.exactly(12)[:4] == bytes.fromhex("0111 0005")


# --- the end


def test_unplugged_it_leaves_its_importer_and_ends(key: Running) -> None:
    client = key.connect().imported()
    client.submit(3, OUT, 6, b"unplug")
    assert client.is_closed()
    key.thread.join()


def test_a_port_that_is_taken() -> None:
    with usbip.listening(0) as listener:
        port = listener.getsockname()[1]
        with (
            pytest.raises(PlaceTaken, match=f"127.0.0.1:{port} cannot hold a simulated key: "),
            usbip.listening(port),
        ):
            pass
    with usbip.listening(port):  # and free again
        pass
