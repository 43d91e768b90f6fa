# SPDX-License-Identifier: LGPL-2.1-or-later
"""A simulated key over USB/IP: what `usbip attach` asks for, then the transfers of the kernel that has it.

Source: the kernel's Documentation/usb/usbip_protocol.rst (6.1), and what its tools/usb/usbip does.
"""

import errno
import math
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from virtrng.errors import PlaceTaken
from virtrng.sim import usb_device
from virtrng.sim.firmware import Firmware
from virtrng.sim.usb_device import BULK_IN, BULK_OUT, NOTIFICATION_IN

HOST = "127.0.0.1"
# The key's name for `usbip attach --busid`. What identifies it in transfers is made of bus and device number.
BUSID, BUS, DEVICE = "1-1", 1, 1
DEVID = BUS << 16 | DEVICE
FULL_SPEED = 2

# --- the handshake

VERSION = 0x0111
REQ_DEVLIST, REP_DEVLIST, REQ_IMPORT, REP_IMPORT = 0x8005, 0x0005, 0x8003, 0x0003
# usbip_common.h of the tools
OK, DEVICE_BUSY, NO_DEVICE = 0, 2, 4
# version, code, status
OPERATION = struct.Struct(">HHI")
BUSID_BYTES = 32
# path, busid, busnum, devnum, speed, idVendor, idProduct, bcdDevice, the class triplet,
# bConfigurationValue, bNumConfigurations, bNumInterfaces
DESCRIPTION = struct.Struct(">256s32s3I3H3s3B")

_DESCRIPTION = DESCRIPTION.pack(
    b"/virtrng/simulate",
    BUSID.encode("ascii"),
    *(BUS, DEVICE, FULL_SPEED),
    *(usb_device.VENDOR_ID, usb_device.PRODUCT_ID, usb_device.DEVICE_RELEASE, usb_device.DEVICE_CLASS),
    *(usb_device.CONFIGURATION, 1, len(usb_device.INTERFACE_CLASSES)),
)
_INTERFACES = b"".join(triplet + b"\0" for triplet in usb_device.INTERFACE_CLASSES)


def device_list(*, imported: bool) -> bytes:
    """Return OP_REP_DEVLIST; as with usbipd, a key that somebody has imported is not in it."""
    header = OPERATION.pack(VERSION, REP_DEVLIST, OK)
    devices = [] if imported else [_DESCRIPTION + _INTERFACES]
    return header + struct.pack(">I", len(devices)) + b"".join(devices)


def import_reply(busid: bytes, *, imported: bool) -> tuple[bytes, bool]:
    """Return OP_REP_IMPORT, and whether it grants the import."""
    status = OK
    if busid.partition(b"\0")[0] != BUSID.encode("ascii"):
        status = NO_DEVICE
    elif imported:
        status = DEVICE_BUSY
    header = OPERATION.pack(VERSION, REP_IMPORT, status)
    return (header + _DESCRIPTION, True) if status == OK else (header, False)


# --- the transfers

CMD_SUBMIT, CMD_UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
DIRECTION_IN = 1
# command, seqnum, devid, direction, endpoint; then what the command has
COMMAND = struct.Struct(">5I28s")
# transfer flags, transfer_buffer_length, start_frame, number_of_packets, interval, setup
SUBMIT = struct.Struct(">IiiiI8s")
# status, actual_length, start_frame, number_of_packets, error_count
SUBMITTED = struct.Struct(">5I5i8x")
UNLINKED = struct.Struct(">5Ii24x")
# Bounds on memory, far beyond what a kernel asks of such a device: usbfs splits at 16 KiB, cdc_acm holds 16.
TRANSFER_BYTES_MAX = 1 << 20
HELD_MAX = 1024
DUE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Transfer:
    """What CMD_SUBMIT asks for."""

    seqnum: int
    endpoint: int
    incoming: bool
    length: int
    setup: bytes
    data: bytes


class ImportedKey:
    """The key's end of the transfers: takes what the importer's kernel sends, appends to `due` what it gets.

    Raises ConnectionError, in receive(), at what cannot be understood: the
    connection is out of step then, and of no more use.
    """

    def __init__(self, firmware: Firmware, due: bytearray) -> None:
        """Put `firmware` behind the endpoints of a device that has just been plugged in."""
        self._firmware = firmware
        self._due = due
        self._control = usb_device.ControlEndpoint(firmware.serial)
        self._received = bytearray()
        self._held: dict[int, Transfer] = {}  # IN transfers that wait for bytes, oldest first
        self._waiting = bytearray()

    def receive(self, data: bytes) -> None:
        """Take the next bytes of the connection."""
        self._received += data
        while self._command():
            pass

    def fill(self) -> None:
        """Complete the bulk IN transfers that there are bytes for; of notifications there is none.

        Only a full buffer ends a transfer: every frame fills its packet, and whether a real key marks the end
        by an empty one is not known. So a read of two packets waits for the second frame, or until it is
        given up.
        """
        for transfer in [held for held in self._held.values() if held.endpoint == BULK_IN]:
            if len(self._due) >= DUE_BYTES_MAX:
                return
            self._waiting += self._firmware.take(max(0, transfer.length - len(self._waiting)))
            if len(self._waiting) < transfer.length:
                return
            del self._held[transfer.seqnum]
            self._complete(transfer, bytes(self._waiting[: transfer.length]))
            del self._waiting[: transfer.length]

    def _command(self) -> bool:
        """Carry out the next command; False if it has not come whole."""
        if len(self._received) < COMMAND.size:
            return False
        command, seqnum, _devid, direction, endpoint, rest = COMMAND.unpack_from(self._received)
        incoming = direction == DIRECTION_IN
        length, setup = self._asked(command, rest)
        end = COMMAND.size + (0 if incoming else length)
        if len(self._received) < end:
            return False
        data = bytes(self._received[COMMAND.size : end])
        del self._received[:end]
        if command == CMD_UNLINK:
            self._unlink(seqnum, *struct.unpack(">I24x", rest))
        else:
            self._submit(Transfer(seqnum, endpoint, incoming, length, setup, data))
        return True

    @staticmethod
    def _asked(command: int, rest: bytes) -> tuple[int, bytes]:
        """Return the length of the transfer that is asked for, 0 if none is, and its setup packet."""
        if command == CMD_UNLINK:
            return 0, b""
        if command != CMD_SUBMIT:
            raise ConnectionError(f"command {command}: the connection is out of step")
        _flags, length, _start, packets, _interval, setup = SUBMIT.unpack(rest)
        # 0 packets, or -1: more are for isochronous endpoints, and we have none.
        if not 0 <= length <= TRANSFER_BYTES_MAX or packets > 0:
            raise ConnectionError(f"a transfer of {length} bytes and {packets} packets")
        return length, setup

    def _unlink(self, seqnum: int, unlinked: int) -> None:
        """Give a transfer up: with what it has collected, as a host controller does, if there is any.

        One that is no longer held was answered just now; then 0 says so.
        """
        transfer = self._held.pop(unlinked, None)
        status = -errno.ECONNRESET if transfer else 0
        if transfer and transfer.endpoint == BULK_IN and self._waiting:
            self._complete(transfer, bytes(self._waiting))
            self._waiting.clear()
            status = 0
        self._due += UNLINKED.pack(RET_UNLINK, seqnum, 0, 0, 0, status)

    def _submit(self, transfer: Transfer) -> None:
        if transfer.endpoint == 0:
            answer = self._control.answer(transfer.setup, transfer.data)
            self._complete(transfer, answer or b"", status=0 if answer is not None else -errno.EPIPE)
        elif transfer.incoming and transfer.endpoint in (BULK_IN, NOTIFICATION_IN):
            if len(self._held) >= HELD_MAX:
                raise ConnectionError("too many transfers at once")
            self._held[transfer.seqnum] = transfer
        elif transfer.endpoint == BULK_OUT and not transfer.incoming:
            # NB: each transfer is taken for one packet; the key's commands are far shorter than that.
            self._firmware.receive(transfer.data)
            self._complete(transfer)
        else:
            self._complete(transfer, status=-errno.EPIPE)

    def _complete(self, transfer: Transfer, data: bytes = b"", *, status: int = 0) -> None:
        # A device that is wrong about the length of a control answer would put the connection out of step.
        sent = data[: transfer.length] if transfer.incoming else b""
        actual = len(sent) if transfer.incoming else len(transfer.data)
        self._due += SUBMITTED.pack(RET_SUBMIT, transfer.seqnum, 0, 0, 0, status, actual, 0, 0, 0) + sent


# --- the connections

RECEIVE_BYTES = 1 << 16
# Of those that have not asked for anything yet; the oldest gives way to another.
ASKING_MAX = 8
_LONGEST_WAIT_S = 3600.0


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Give a socket that listens on this machine's `port`, on one that is free if that is 0.

    Nobody else's machine reaches it. Raises PlaceTaken.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        try:
            # Else the port stays taken for a minute after an importer was left.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, port))
            listener.listen()
        except OSError as error:
            raise PlaceTaken(f"{HOST}:{port}", error.strerror or str(error)) from error
        listener.settimeout(0)
        yield listener


class _Client:
    """One connection: asks, is answered and goes; or imports the key, and stays."""

    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(0)
        self.stream = stream
        self.received = bytearray()
        self.due = bytearray()
        self.key: ImportedKey | None = None
        self.answered = False

    @property
    def events(self) -> int:
        """What it is to be polled for."""
        reading = not self.answered and len(self.due) < DUE_BYTES_MAX
        return (select.POLLIN if reading else 0) | (select.POLLOUT if self.due else 0)

    def send(self) -> None:
        """Send what it takes now; raises OSError when it is gone, or was all that it came for."""
        if self.due:
            try:
                del self.due[: self.stream.send(self.due)]
            except BlockingIOError:
                return
        if self.answered and not self.due:
            raise ConnectionError("all is said")

    def receive(self) -> bytes:
        """Return what came; raises OSError when it is gone."""
        try:
            received = self.stream.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return b""
        if not received:
            raise ConnectionError("it is gone")
        return received


class Server:
    """Exports one key, to one importer at a time. `clock` is the firmware's."""

    def __init__(self, firmware: Firmware, clock: Callable[[], float] = time.monotonic) -> None:
        """Export the key with this firmware, which gets power when it is imported."""
        self._firmware = firmware
        self._clock = clock
        self._clients: list[_Client] = []

    def plug_into(self, stream: socket.socket) -> None:
        """Take the other end of `stream`, now the server's, for an importer that got its reply."""
        client = _Client(stream)
        client.key = self._plugged_in(client)
        self._clients.append(client)

    def serve(self, listener: socket.socket | None = None, stop: int | None = None) -> None:
        """Serve until the descriptor `stop` is readable or the key is unplugged.

        Without a `listener`, also until the importer is gone. Closes all connections in the end.
        """
        try:
            while listener is not None or self._clients:
                self._firmware.advance(self._clock())
                if self._firmware.unplugged:
                    return
                self._for_each(self._send)
                ready = self._wait(listener, stop)
                if stop in ready:
                    return
                self._firmware.advance(self._clock())
                self._for_each(self._receive, ready)
                if listener is not None and listener.fileno() in ready:
                    self._accept(listener)
        finally:
            for client in self._clients:
                client.stream.close()
            self._clients.clear()

    def _wait(self, listener: socket.socket | None, stop: int | None) -> dict[int, int]:
        poll = select.poll()
        for descriptor in (stop, None if listener is None else listener.fileno()):
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
        for client in self._clients:
            poll.register(client.stream.fileno(), client.events)
        wait_s = max(0.0, min(self._firmware.next_due_s - self._clock(), _LONGEST_WAIT_S))
        return dict(poll.poll(math.ceil(1000 * wait_s)))

    def _for_each(self, do: Callable[[_Client], None], ready: dict[int, int] | None = None) -> None:
        """Do it for all clients, or those that are ready; the ones for which it fails are left."""
        for client in list(self._clients):
            try:
                if ready is None or ready.get(client.stream.fileno(), 0) & ~select.POLLOUT:
                    do(client)
            except OSError:
                client.stream.close()
                self._clients.remove(client)

    def _accept(self, listener: socket.socket) -> None:
        try:
            stream, _ = listener.accept()
        except (BlockingIOError, ConnectionError):  # it has gone again
            return
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._clients.append(_Client(stream))
        asking = [client for client in self._clients if client.key is None]
        for oldest in asking[:-ASKING_MAX]:
            oldest.stream.close()
            self._clients.remove(oldest)

    def _send(self, client: _Client) -> None:
        if client.key is not None:
            client.key.fill()
        client.send()

    def _receive(self, client: _Client) -> None:
        if client.key is not None:
            client.key.receive(client.receive())
        elif not client.answered:
            client.received += client.receive()
            self._answer(client)

    def _answer(self, client: _Client) -> None:
        """Answer the request, once it is whole; raises ConnectionError at what is none."""
        if len(client.received) < OPERATION.size:
            return
        version, code, _status = OPERATION.unpack_from(client.received)
        if version != VERSION or code not in (REQ_DEVLIST, REQ_IMPORT):
            raise ConnectionError(f"version {version:#06x}, code {code:#06x}")
        imported = any(other.key is not None for other in self._clients)
        if code == REQ_DEVLIST:
            client.due += device_list(imported=imported)
            client.answered = True
            return
        end = OPERATION.size + BUSID_BYTES
        if len(client.received) < end:
            return
        reply, granted = import_reply(bytes(client.received[OPERATION.size : end]), imported=imported)
        client.due += reply
        client.answered = not granted
        if granted:
            client.key = self._plugged_in(client)
            client.key.receive(bytes(client.received[end:]))

    def _plugged_in(self, client: _Client) -> ImportedKey:
        self._firmware.plug_in(self._clock())
        return ImportedKey(self._firmware, client.due)
