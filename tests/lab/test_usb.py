# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does the way from a key to the pool work on a real USB stack: the kernel's, with cdc_acm, udevd and libusb?

The key is simulated, and plugged in over USB/IP inside a guest; all above its wire is real.
"""

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab import payload, usb_key
from tests.lab.guest import CommandResult, LabGuest
from tests.lab.host import LabHost, wait_for
from tests.lab.images import GUEST_MODULES, USB_MODULES, guest_image
from virtrng.sim.entropykey import SERIAL

KEY = f"entropykey:serial={SERIAL}"
# Of noise: about what two emulated processors make, check and test together.
RATE_BYTES_PER_S = 2500
# The next block is an hour away.
SILENT_BYTES_PER_S = 0.01
BLOCK_BYTES = 2500
NOBODY = "nobody:x:65534:65534:::"
# Whoever first reads /dev/urandom would otherwise wait for the kernel to make noise of its own.
RNG_XML = "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
KEYRING = "/run/keyring"
PYTHON_M = f"cd {payload.GUEST_TREE} && exec {payload.GUEST_PYTHON} -m"
# As `usbip` has it by default. With this seed the fourth frame unplugs the key: the second answer to a reset,
# after the S! of being made and that of being plugged in.
USBIP_PORT = 3240
SEED = "40"
UNPLUGS_ITSELF = f"--rate {SILENT_BYTES_PER_S} --fault unplug@50%"
BOUND_TO_CDC_ACM = {"cdc_acm": ["1.0", "1.1"], "usbfs": [], "ttyACM0": True}
CLAIMED = {"cdc_acm": [], "usbfs": ["1.0", "1.1"], "ttyACM0": False}


@pytest.fixture(scope="module")
def guest(lab_host: LabHost) -> Iterator[LabGuest]:
    image = guest_image(extra=payload.usb_payload(), modules=GUEST_MODULES + USB_MODULES)
    # The key and who reads it are both busy.
    guest = LabGuest.define(lab_host, "usb", image=image, memory_mib=256, vcpus=2, extra_devices=RNG_XML)
    try:
        guest.boot()
        guest.run(f"{payload.PREPARE} && mkdir -p /etc && echo '{NOBODY}' >/etc/passwd")
        yield guest
    finally:
        guest.remove()


@pytest.fixture
def key(guest: LabGuest) -> Iterator[LabGuest]:
    """Yield the guest, with a key plugged in."""
    with plugged_in(guest, RATE_BYTES_PER_S):
        yield guest


@contextmanager
def plugged_in(guest: LabGuest, rate_bytes_per_s: float) -> Iterator[None]:
    try:
        plug(guest, rate_bytes_per_s)
        yield
    finally:
        unplug(guest)
        # pytest shows this with a test that failed.
        sys.stdout.write(guest.run("tail -n 20 /run/*.log; dmesg | tail -n 20"))


def plug(guest: LabGuest, rate_bytes_per_s: float, noise_seed: str = "") -> None:
    start(guest, "plug", f"tests.lab.usb_key {rate_bytes_per_s} {noise_seed}")
    wait_until(guest, "[ -e /sys/class/tty/ttyACM0 ]", "cdc_acm to bind the key")


def unplug(guest: LabGuest) -> None:
    """Unplug the key; harmless when it is gone."""
    guest.try_run(f"echo {usb_key.PORT} >{usb_key.VHCI}/detach")
    wait_until_ended(guest, "plug")
    wait_until(guest, f"grep -q '^hs  0000 004 ' {usb_key.VHCI}/status", "the port to be free")


@contextmanager
def feeder(guest: LabGuest) -> Iterator[None]:
    secret = base64.b64encode(usb_key.LONG_TERM_KEY).decode()
    guest.run(f"rm -f /run/virtrng/feeder.json; umask 077; echo '{SERIAL} {secret}' >{KEYRING}")
    start(guest, "feed", f"virtrng feed --keyring {KEYRING}")
    try:
        yield
    finally:
        guest.try_run("kill -TERM $(cat /run/feed.pid)")
        wait_until_ended(guest, "feed")


def start(guest: LabGuest, name: str, words: str) -> None:
    guest.run(f"({PYTHON_M} {words}) >/run/{name}.log 2>&1 & echo $! >/run/{name}.pid")


def wait_until(guest: LabGuest, condition: str, what: str) -> None:
    wait_for(lambda: guest.try_run(condition).status == 0, what, timeout_s=30, poll_s=0.1)


def wait_until_ended(guest: LabGuest, name: str) -> None:
    wait_until(guest, f"[ ! -e /proc/$(cat /run/{name}.pid) ]", f"'{name}' to end")


def virtrng(guest: LabGuest, words: str) -> CommandResult:
    return guest.try_run(f"{PYTHON_M} virtrng {words}")


def virtrng_as_nobody(guest: LabGuest, words: str) -> CommandResult:
    return guest.try_run(f"su -s /bin/sh nobody -c '{PYTHON_M} virtrng {words}'")


def wait_for_feeder(guest: LabGuest, state: str, seeds: int) -> dict[str, Any]:
    """Return feeder.json as soon as it says that the key is in this state, with so many seeds made."""

    def status() -> dict[str, Any] | None:
        read = guest.try_run("cat /run/virtrng/feeder.json")
        found: dict[str, Any] = {} if read.status else json.loads(read.output)
        reached = found and [key["state"] for key in found["keys"]] == [state]
        return found if reached and found["kernel"]["seeds"] >= seeds else None

    found = wait_for(status, f"the feeder's key to be {state}", timeout_s=30, poll_s=0.1)
    assert found is not None
    return found


def bound(guest: LabGuest) -> dict[str, object]:
    """Return what usb_guest.bound() does, without Python."""
    names = guest.run(
        "cd /sys/bus/usb/drivers; ls -d cdc_acm/*:* usbfs/*:* /sys/class/tty/ttyACM0 2>&-; true"
    ).split()
    by_driver = {
        driver: [name.partition(":")[2] for name in names if name.startswith(driver)]
        for driver in ("cdc_acm", "usbfs")
    }
    return {**by_driver, "ttyACM0": "/sys/class/tty/ttyACM0" in names}


def test_noise_is_read_as_it_was_encrypted_and_cdc_acm_gets_the_key_back(key: LabGuest) -> None:
    report = json.loads(key.run(f"{PYTHON_M} tests.lab.usb_guest read {3 * BLOCK_BYTES}"))
    assert report.pop("read_bytes") >= 3 * BLOCK_BYTES
    assert report == {
        "before": BOUND_TO_CDC_ACM,
        "held": CLAIMED,
        "after": BOUND_TO_CDC_ACM,
        "simulated": True,
        "is_what_was_encrypted": True,
        "frames_bad": 0,
    }


def test_the_feeder_feeds_finds_its_key_again_and_gives_it_back_when_it_ends(key: LabGuest) -> None:
    with feeder(key):
        status = wait_for_feeder(key, "ok", seeds=1)
        assert bound(key) == CLAIMED
        busy = virtrng(key, f"keys capture {SERIAL} --bytes 1 --output /tmp/never")
        unplug(key)
        absent = wait_for_feeder(key, "absent", seeds=1)
        plug(key, RATE_BYTES_PER_S, "another-noise")  # the same again would be a replay
        again = wait_for_feeder(key, "ok", absent["kernel"]["seeds"] + 1)
    assert bound(key) == BOUND_TO_CDC_ACM
    (fed,) = status["keys"]
    assert (fed["kind"], fed["serial"], fed["simulated"]) == ("entropykey", SERIAL, True)
    assert fed["bytes_read"] >= BLOCK_BYTES
    assert status["kernel"]["bytes_passed"] >= BLOCK_BYTES
    assert busy.status == 1
    assert f"{KEY} is in use by virtrng feed (pid {status['pid']})\n" in busy.output
    assert absent["keys"][0]["last_fault"] == f"{KEY} was lost while being read"
    assert again["keys"][0]["last_fault"] is None
    assert (again["pid"], again["kernel"]["seeded_bits"]) == (status["pid"], 0)


def test_a_key_whose_serial_port_is_open_is_left_to_its_user(key: LabGuest) -> None:
    key.run("cat /dev/ttyACM0 >/dev/null 2>&1 & echo $! >/run/cat.pid")
    try:
        wait_until(key, "ls -l /proc/$(cat /run/cat.pid)/fd | grep -q ttyACM0", "cat to open the port")
        busy = virtrng(key, f"keys capture {SERIAL} --bytes 1 --output /tmp/never")
    finally:
        key.run("kill $(cat /run/cat.pid)")
    assert busy.status == 1
    pid = key.run("cat /run/cat.pid")
    assert f"{KEY} is in use by cat (pid {pid})\n" in busy.output


def test_a_key_is_listed_and_refused_to_someone_who_may_not_open_it(key: LabGuest) -> None:
    # Who may not open it can list it: so listing opens nothing.
    listed = virtrng_as_nobody(key, "keys --json")
    assert listed.status == 0
    (found,) = json.loads(listed.output)["keys"]
    assert (
        found.items()
        >= {
            "kind": "entropykey",
            "serial": SERIAL,
            "product": "Entropy Key",
            "manufacturer": "Simtec Electronics, simulated by virtrng",
            "simulated": True,
            "node": found["node"],
            "holder": None,
            "state": "key-denied",
        }.items()
    )
    assert key.run(f"stat -c %t {found['node']}") == "bd"  # a usbfs node, as the kernel numbers them: 189
    refused = virtrng_as_nobody(key, f"keys capture {SERIAL} --bytes 1 --output /tmp/never")
    assert refused.status == 1
    assert f"no permission to open {KEY} at {found['node']}\n" in refused.output
    assert bound(key) == BOUND_TO_CDC_ACM


def test_a_key_that_is_unplugged_while_a_read_waits_is_lost(guest: LabGuest) -> None:
    with plugged_in(guest, SILENT_BYTES_PER_S):
        report = json.loads(guest.run(f"{PYTHON_M} tests.lab.usb_guest unplug-in-mid-read"))
    assert report["lost"] == f"{KEY} was lost while being read"
    assert "a running feeder finds it by itself" in report["remedy"]


@contextmanager
def exported(guest: LabGuest, options: str) -> Iterator[None]:
    """Export a key over USB/IP on the guest's loopback, as a user would."""
    # /var/run is where `usbip attach` notes what it attached.
    guest.run("ip link set lo up && mkdir -p /var/run")
    start(guest, "export", f"virtrng simulate entropykey --usbip {USBIP_PORT} --seed {SEED} {options}")
    try:
        wait_until(guest, "grep -q 'Ctrl-C' /run/export.log", "'virtrng simulate' to listen")
        yield
    finally:
        guest.try_run("kill -TERM $(cat /run/export.pid)")
        wait_until_ended(guest, "export")
        wait_until(guest, f"grep -q '^hs  0000 004 ' {usb_key.VHCI}/status", "the port to be free")
        sys.stdout.write(guest.run("tail -n 20 /run/*.log; dmesg | tail -n 20"))


def attach(guest: LabGuest) -> None:
    guest.run("usbip attach --remote 127.0.0.1 --busid 1-1")
    wait_until(guest, "[ -e /sys/class/tty/ttyACM0 ]", "cdc_acm to bind the key")


def test_the_usbip_tool_plugs_in_the_key_that_simulate_exports(guest: LabGuest) -> None:
    with exported(guest, f"--rate {RATE_BYTES_PER_S}"):
        listed = guest.run("usbip list --remote 127.0.0.1")
        attach(guest)
        report = json.loads(guest.run(f"{PYTHON_M} tests.lab.usb_guest read {2 * BLOCK_BYTES} {SEED}"))
        taken = guest.run("usbip list --remote 127.0.0.1 2>&1")
        (found,) = json.loads(virtrng(guest, "keys --json").output)["keys"]
    assert "1-1: unknown vendor : unknown product (20df:0001)" in listed
    assert "20df:0001" not in taken
    assert (found["serial"], found["simulated"]) == (SERIAL, True)
    assert found["manufacturer"] == "Simtec Electronics, simulated by virtrng"
    assert report.pop("read_bytes") >= 2 * BLOCK_BYTES
    assert report == {
        "before": BOUND_TO_CDC_ACM,
        "held": CLAIMED,
        "after": BOUND_TO_CDC_ACM,
        "simulated": True,
        "is_what_was_encrypted": True,
        "frames_bad": 0,
    }
    assert bound(guest) == {"cdc_acm": [], "usbfs": [], "ttyACM0": False}


def test_a_fault_unplugs_the_key_and_its_export_is_over(guest: LabGuest) -> None:
    with exported(guest, UNPLUGS_ITSELF):
        attach(guest)
        report = json.loads(guest.run(f"{PYTHON_M} tests.lab.usb_guest reset-until-lost"))
        wait_until_ended(guest, "export")
        again = guest.try_run("usbip attach --remote 127.0.0.1 --busid 1-1")
    assert report == {"lost": KEY, "answers": 1}  # that of being plugged in
    assert again.status != 0
    assert bound(guest) == {"cdc_acm": [], "usbfs": [], "ttyACM0": False}
