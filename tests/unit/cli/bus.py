# SPDX-License-Identifier: LGPL-2.1-or-later
"""Simulated Entropy Keys in the place of those on USB, for the commands that pair."""

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from virtrng.cli import keys_pair
from virtrng.sim.entropykey import SERIAL, SimulatedEntropyKey, SimulatedTransport
from virtrng.transport import path as transport_path
from virtrng.transport import scan
from virtrng.transport.scan import UsbDevice

OTHER_SERIAL = "M/IYATBjUU1ACsGt"
MASTER_KEY = bytes(range(32))
CARD = b"AAECAwQF BgcICQoLDA0O DxAREhMUFRYX GBkaGxwdHh9Q\n"
OTHER_CARD = base64.b64encode(bytes(32)) + b"\n"
KEY = UsbDevice(0x20DF, 1, SERIAL, "Simtec Electronics", "Entropy Key", 1, 2, "/dev/bus/usb/001/002")
OTHER = replace(KEY, serial=OTHER_SERIAL, address=3, node="/dev/bus/usb/001/003")
NAME = f"entropykey:serial={SERIAL} (simulated by virtrng)"
# A block every 2.5 ms: what a test waits for is there at once.
RATE_BYTES_PER_S = 1_000_000.0


class Bus:
    """A bus with simulated keys on it: each keeps its long-term key, however often it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.firmware: dict[str, SimulatedEntropyKey] = {}
        self.remembered: list[bytes] = []
        self.open = 0
        self.before_write: Callable[[bytes], object] = lambda _: None
        self.trouble: Exception | None = None
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(keys_pair, "UsbTransport", lambda name, device: self.opened(name, device.serial))
        monkeypatch.setattr(transport_path, "at", lambda name, _path: self.opened(name, SERIAL))
        monkeypatch.setattr(scan, "holder", lambda _: None)
        self.plug_in()

    def plug_in(self, *devices: UsbDevice) -> None:
        self.monkeypatch.setattr(scan, "usb_devices", lambda: list(devices))

    def opened(self, _name: str, serial: str) -> "Wire":
        if self.trouble:
            raise self.trouble
        if serial not in self.firmware:
            self.firmware[serial] = SimulatedEntropyKey(
                long_term_key=bytes(32),
                now_s=0.0,
                serial=serial,
                master_key=MASTER_KEY,
                rate_bytes_per_s=RATE_BYTES_PER_S,
                remember=self.remembered.append,
            )
        self.open += 1
        return Wire(self, self.firmware[serial])


class Wire(SimulatedTransport):
    """A transport that says before it writes, and counts those that were not closed."""

    def __init__(self, bus: Bus, firmware: SimulatedEntropyKey) -> None:
        super().__init__(firmware)
        self.bus = bus

    def write(self, data: bytes, timeout_ms: int) -> None:
        self.bus.before_write(data)
        super().write(data, timeout_ms)

    def close(self) -> None:
        self.bus.open -= 1
        super().close()


def nothing_happened(bus: Bus, keyring: Path) -> bool:
    beside = {each.name for each in keyring.parent.iterdir()} if keyring.parent.exists() else set()
    return bus.remembered == [] and bus.open == 0 and beside <= {".keyring.lock"}
