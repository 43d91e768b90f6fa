# SPDX-License-Identifier: LGPL-2.1-or-later
"""The USB transport over a pyusb backend that behaves, and misbehaves, as libusb does."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import usb.core
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from tests.unit.support import child_after
from tests.unit.transport.usb_backend import (
    BULK,
    BULK_IN,
    BULK_OUT,
    DEVICE,
    INTERRUPT,
    KEY,
    Backend,
    endpoint,
    usb_error,
)
from virtrng.errors import KeyDenied, KeyFault, KeyInUse, KeyLost, KeyTrouble
from virtrng.keys.entropykey import READ_BYTES, EntropyKey
from virtrng.keys.entropykey.frames import FRAME_BYTES
from virtrng.sim.entropykey import SimulatedEntropyKey, SimulatedTransport, seeded_noise
from virtrng.transport import scan
from virtrng.transport.usb import UsbTransport

LONG_TERM_KEY = bytes(range(32))


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Rig:
    """A simulated key behind the backend, and what it encrypted."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.encrypted = b""
        noise = seeded_noise(bytes(32))

        def encrypt(size: int) -> bytes:
            plain = noise(size)
            self.encrypted += plain
            return plain

        firmware = SimulatedEntropyKey(long_term_key=LONG_TERM_KEY, now_s=self.clock(), noise=encrypt)
        self.backend = Backend(SimulatedTransport(firmware, clock=self.clock, sleep=self.clock.sleep))

    def open(self) -> UsbTransport:
        return UsbTransport(KEY, DEVICE, backend=self.backend)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_opening_takes_both_interfaces_from_the_kernel(rig: Rig) -> None:
    transport = rig.open()
    assert rig.backend.bound == {0: False, 1: False}
    assert rig.backend.claimed == {0, 1}
    transport.close()
    assert rig.backend.given_back


def test_closing_releases_before_it_gives_back_and_again_does_nothing(rig: Rig) -> None:
    transport = rig.open()
    rig.backend.calls.clear()
    transport.close()
    names = [name for name, _ in rig.backend.calls if name in ("release", "attach")]
    assert names == ["release", "release", "attach", "attach"]
    rig.backend.calls.clear()
    transport.close()
    assert rig.backend.calls == []


def test_interfaces_whose_last_user_was_killed_go_to_the_kernel_too(rig: Rig) -> None:
    rig.backend.bound = {0: False, 1: False}
    rig.open().close()
    assert rig.backend.given_back
    assert "detach" not in dict(rig.backend.calls)


def test_after_close_it_is_not_opened_again(rig: Rig) -> None:
    transport = rig.open()
    transport.close()
    for use in (lambda: transport.read(64, 10), lambda: transport.write(b"R", 10)):
        with pytest.raises(KeyLost):
            use()
    assert rig.backend.given_back


def test_it_is_what_scan_says(rig: Rig) -> None:
    for manufacturer, simulated in (("Simtec Electronics", False), ("x, simulated by virtrng", True)):
        transport = UsbTransport(KEY, replace(DEVICE, manufacturer=manufacturer), backend=rig.backend)
        assert transport.key == KEY
        assert transport.simulated is simulated
        transport.close()


def test_it_is_lost_when_it_is_not_there(rig: Rig) -> None:
    rig.backend.present = False
    with pytest.raises(KeyLost, match=r"was lost while opening it$"):
        rig.open()
    rig.backend.present = True
    with pytest.raises(KeyLost):
        UsbTransport(KEY, replace(DEVICE, address=DEVICE.address + 1), backend=rig.backend)


ERRORS: list[tuple[int, type[KeyTrouble], str]] = [
    (errno.ENODEV, KeyLost, f"{KEY} was lost while opening it"),
    (errno.ENOENT, KeyLost, f"{KEY} was lost while opening it"),
    (errno.EACCES, KeyDenied, f"no permission to open {KEY} at /dev/bus/usb/003/007"),
    (errno.EPERM, KeyDenied, f"no permission to open {KEY} at /dev/bus/usb/003/007"),
    (errno.EBUSY, KeyInUse, f"{KEY} is in use by another program"),
    (errno.EIO, KeyLost, f"{KEY} was lost while opening it"),
    (errno.ENOMEM, KeyFault, f"{KEY}: Cannot allocate memory while opening it"),
    (errno.ETIMEDOUT, KeyFault, f"{KEY}: Connection timed out while opening it"),
]


@pytest.mark.parametrize("where", ["enumerate", "open", "get_configuration", "active", "detach", "claim"])
@pytest.mark.parametrize(("number", "kind", "sentence"), ERRORS)
def test_opening_that_fails_leaves_nothing_claimed(
    rig: Rig, where: str, number: int, kind: type[KeyTrouble], sentence: str
) -> None:
    if (where, number) == ("detach", errno.ENOENT):  # another program was faster, and holds it
        rig.backend.fail["claim"], kind, sentence = (
            errno.EBUSY,
            KeyInUse,
            f"{KEY} is in use by another program",
        )
    rig.backend.fail[where] = number
    with pytest.raises(kind) as caught:
        rig.open()
    assert type(caught.value) is kind
    assert str(caught.value) == sentence
    assert isinstance(caught.value.__cause__, usb.core.USBError)
    assert rig.backend.given_back


def test_the_second_interface_busy_gives_back_the_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def claim(dev_handle: str, intf: int) -> None:
        if intf == 1:
            raise usb_error(errno.EBUSY)
        rig.backend.claimed.add(intf)

    monkeypatch.setattr(rig.backend, "claim_interface", claim)
    with pytest.raises(KeyInUse):
        rig.open()
    assert rig.backend.given_back


def test_who_holds_it_is_named(rig: Rig, tmp_path: Path) -> None:
    node = tmp_path / "007"
    node.write_bytes(b"")
    rig.backend.fail["claim"] = errno.EBUSY
    with child_after(node.open) as pid:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        with pytest.raises(KeyInUse) as caught:
            UsbTransport(KEY, replace(DEVICE, node=str(node)), backend=rig.backend)
    assert str(caught.value) == f"{KEY} is in use by {name} (pid {pid})"


def test_without_libusb(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(**_: object) -> None:
        raise usb.core.NoBackendError("No backend available")

    monkeypatch.setattr(usb.core, "find", find)
    with pytest.raises(KeyFault, match="libusb, which pyusb needs, is not there"):
        rig.open()


def test_an_interrupt_while_opening_gives_all_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(dev_handle: str, intf: int) -> bool:
        if intf == 1:
            raise KeyboardInterrupt
        return rig.backend.bound[intf]

    monkeypatch.setattr(rig.backend, "is_kernel_driver_active", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rig.open()
    assert rig.backend.given_back


@pytest.mark.parametrize(
    "endpoints",
    [[], [endpoint(BULK_IN, BULK)], [endpoint(BULK_OUT, BULK)],
     [endpoint(BULK_IN, INTERRUPT), endpoint(BULK_OUT, INTERRUPT)]],
)  # fmt: skip
def test_a_device_without_the_endpoints(rig: Rig, endpoints: list[object]) -> None:
    rig.backend.endpoints[1] = endpoints  # type: ignore[assignment]
    with pytest.raises(KeyFault, match="it has no pair of bulk endpoints"):
        rig.open()
    assert rig.backend.given_back


def test_a_vendor_class_serves_as_well(rig: Rig) -> None:
    rig.backend.data_class = 0xFF
    transport = rig.open()
    assert transport.read(FRAME_BYTES, 100)
    transport.close()


# --- reading and writing


@pytest.mark.parametrize("timeout_ms", [1, 100, 1234])
def test_the_timeout_reaches_libusb(rig: Rig, timeout_ms: int) -> None:
    transport = rig.open()
    transport.read(FRAME_BYTES, timeout_ms)
    transport.write(b"\x03", timeout_ms + 1)
    assert rig.backend.timeouts_ms == [timeout_ms, timeout_ms + 1]
    transport.close()


def test_whole_packets_are_asked_for(rig: Rig) -> None:
    transport = rig.open()
    for size in (10_000, 2048, 64, 10):
        transport.write(b"\x03", 10)  # S! is the answer, and was its greeting
        assert len(transport.read(size, 10)) in (FRAME_BYTES, 2 * FRAME_BYTES)
    assert rig.backend.sizes == [9984, 2048, 64, 64]
    transport.close()


def test_nothing_in_time_is_no_bytes(rig: Rig) -> None:
    transport = rig.open()
    transport.read(FRAME_BYTES, 1)
    assert transport.read(FRAME_BYTES, 1) == b""
    transport.close()


@pytest.mark.parametrize(
    ("number", "kind", "what"),
    [
        (errno.ENODEV, KeyLost, "was lost while"),
        (errno.ESHUTDOWN, KeyLost, "was lost while"),
        (errno.EPIPE, KeyFault, ": Broken pipe while"),
        (errno.EIO, KeyLost, "was lost while"),
        (errno.EOVERFLOW, KeyFault, ": Value too large for defined data type while"),
        (errno.EBUSY, KeyInUse, "is in use by another program"),
        (errno.EACCES, KeyDenied, "no permission to open"),
    ],
)
def test_errors_in_mid_transfer(rig: Rig, number: int, kind: type[KeyTrouble], what: str) -> None:
    transport = rig.open()
    rig.backend.fail = {"read": number, "write": number}
    with pytest.raises(kind, match=what) as caught:
        transport.read(FRAME_BYTES, 10)
    assert type(caught.value) is kind
    with pytest.raises(kind, match=what):
        transport.write(b"K", 10)
    rig.backend.fail = {}
    transport.close()
    assert rig.backend.given_back


def test_a_write_that_times_out_is_a_fault(rig: Rig) -> None:
    transport = rig.open()
    rig.backend.fail["write"] = errno.ETIMEDOUT
    with pytest.raises(KeyFault, match="Connection timed out while being written to"):
        transport.write(b"K", 10)
    transport.close()


def test_a_write_that_is_not_whole_is_a_fault(rig: Rig) -> None:
    transport = rig.open()
    rig.backend.short_write = 1
    with pytest.raises(KeyFault, match="it took 0 of 1 bytes"):
        transport.write(b"\x03", 10)
    transport.close()


def test_unplugged_it_is_closed_all_the_same(rig: Rig) -> None:
    transport = rig.open()
    rig.backend.fail = dict.fromkeys(("read", "release", "attach"), errno.ENODEV)
    with pytest.raises(KeyLost):
        transport.read(FRAME_BYTES, 10)
    transport.close()
    assert rig.backend.opened == 0
    assert not rig.backend.claimed


@settings(derandomize=True, max_examples=scaled(30))
@given(
    st.sampled_from(sorted(errno.errorcode)), st.sampled_from(["open", "claim", "detach", "read", "write"])
)
def test_every_errno_is_one_of_ours(number: int, where: str) -> None:
    rig = Rig()
    rig.backend.fail[where] = number
    transport = None
    try:
        transport = rig.open()
        transport.read(FRAME_BYTES, 10)
        transport.write(b"\x03", 10)
    except KeyTrouble as trouble:
        assert KEY in str(trouble)  # noqa: PT017  not every error is one here
    finally:
        rig.backend.fail = {}
        if transport:
            transport.close()
    assert rig.backend.given_back


# --- a whole session


def test_a_session_of_the_driver(rig: Rig) -> None:
    transport = rig.open()
    key = EntropyKey(
        transport,
        lambda _serial: LONG_TERM_KEY,
        min_entropy=0.5,
        clock=rig.clock,
        random_bytes=bytes,
        read_bytes=READ_BYTES,
    )
    key.start()
    assert key.serial == DEVICE.serial
    assert not key.simulated
    emitted = b""
    while len(emitted) < 5000:
        noise = key.read(500)
        emitted += noise.data if noise else b""
    assert emitted == rig.encrypted[: len(emitted)]
    assert (key.counters.sessions, key.counters.frames_bad) == (1, 0)
    first, *_, last = rig.backend.sizes
    assert (first, last) == (FRAME_BYTES, READ_BYTES)
    assert min(rig.backend.timeouts_ms) >= 1, "0 would be for ever"
    rig.backend.fail["read"] = errno.ENODEV
    with pytest.raises(KeyLost, match="was lost while being read"):
        key.read(500)
    rig.backend.fail = {}
    key.close()
    assert rig.backend.given_back


def test_simulated_is_said_in_one_place() -> None:
    assert replace(DEVICE, manufacturer=f"Simtec Electronics, {scan.SIMULATED_MARK}").simulated
    assert not DEVICE.simulated
