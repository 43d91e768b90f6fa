# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looking for USB devices, and for who holds one. pyudev reads the machine's own /sys alone, so that
devices are those of a stand-in for its context, attributes as sysfs has them."""

import errno
import os
import select
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import pyudev

from tests.unit.support import child_after
from virtrng.transport import scan
from virtrng.transport.scan import UsbDevice

KEY = {
    "busnum": b"3\n",
    "devnum": b"17\n",
    "idVendor": b"20df\n",
    "idProduct": b"0001\n",
    "serial": b"M/IYATBjUU1ACsGt\n",
    "manufacturer": b"Simtec Electronics\n",
    "product": b"Entropy Key\n",
}


class Attributes:
    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files

    def asstring(self, name: str) -> str:
        return self.files[name].decode()


class Device:
    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.attributes = Attributes(files)


def plug_in(monkeypatch: pytest.MonkeyPatch, *devices: Mapping[str, bytes]) -> None:
    class Context:
        def list_devices(self, **kwargs: str) -> Iterator[Device]:
            assert kwargs == {"subsystem": "usb", "DEVTYPE": "usb_device"}
            return map(Device, devices)

    monkeypatch.setattr(pyudev, "Context", Context)


def test_this_machine_can_be_looked_at() -> None:
    found = scan.usb_devices()
    assert found == sorted(found, key=lambda device: (device.bus, device.address))
    assert all(device.node.startswith("/dev/bus/usb/") for device in found)


def test_a_device_as_sysfs_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, KEY)
    assert scan.usb_devices() == [
        UsbDevice(
            vendor_id=0x20DF,
            product_id=1,
            serial="M/IYATBjUU1ACsGt",
            manufacturer="Simtec Electronics",
            product="Entropy Key",
            bus=3,
            address=17,
            node="/dev/bus/usb/003/017",
        )
    ]


def test_they_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(b"10", b"1"), (b"2", b"11"), (b"2", b"2")]
    plug_in(monkeypatch, *(KEY | {"busnum": bus, "devnum": address} for bus, address in places))
    assert [(device.bus, device.address) for device in scan.usb_devices()] == [(2, 2), (2, 11), (10, 1)]


@pytest.mark.parametrize("missing", ["busnum", "devnum", "idVendor", "idProduct"])
def test_one_that_is_unplugged_while_it_is_read_is_left_out(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(monkeypatch, {name: text for name, text in KEY.items() if name != missing}, KEY)
    assert len(scan.usb_devices()) == 1


@pytest.mark.parametrize("name", ["serial", "manufacturer", "product"])
@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_text_that_is_not_there_is_empty(
    name: str, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {key: text for key, text in KEY.items() if key != name}
    plug_in(monkeypatch, files if content is None else files | {name: content})
    (device,) = scan.usb_devices()
    assert getattr(device, name) == ""


def test_our_own_simulated_keys_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(monkeypatch, KEY, KEY | {"manufacturer": b"Simtec Electronics, simulated by virtrng\n"})
    assert [device.simulated for device in scan.usb_devices()] == [False, True]


# --- what comes and goes


def test_news_of_it_can_be_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugs = scan.Plugs()
    assert select.select([plugs], [], [], 0)[0] == []
    plugs.drain()
    for there in (False, True):
        monkeypatch.setattr(scan, "_UDEVD", tmp_path if there else tmp_path / "none")
        assert plugs.heard == there


def test_more_news_than_could_be_kept_is_news(monkeypatch: pytest.MonkeyPatch) -> None:
    plugs = scan.Plugs()

    def overrun(_timeout: int) -> None:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    monkeypatch.setattr(plugs._monitor, "poll", overrun)
    plugs.drain()


def test_all_news_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    plugs = scan.Plugs()
    news = [object(), object(), None]
    monkeypatch.setattr(plugs._monitor, "poll", lambda _timeout: news.pop(0))
    plugs.drain()
    assert news == []


# --- who holds it


def test_a_file_that_another_process_has_open(tmp_path: Path) -> None:
    node = tmp_path / "001"
    node.write_bytes(b"")
    assert scan.holder(str(node)) is None
    with child_after(node.open) as pid:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        assert scan.holder(str(node)) == f"{name} (pid {pid})"
        assert scan.holder(str(tmp_path / "002")) is None
    assert scan.holder(str(node)) is None


def test_we_are_nobody_to_ourselves(tmp_path: Path) -> None:
    node = tmp_path / "001"
    with node.open("w"):
        assert scan.holder(str(node)) is None


def test_a_process_that_ends_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tmp_path / "001"
    node.write_bytes(b"")
    readlink = os.readlink

    def gone(path: str | Path) -> str:
        if str(path).startswith("/proc/1/"):
            raise FileNotFoundError(path)
        return str(readlink(path))

    monkeypatch.setattr(os, "readlink", gone)
    with child_after(node.open) as pid:
        found = scan.holder(str(node))
    assert found is not None
    assert found.endswith(f"(pid {pid})")
