# SPDX-License-Identifier: LGPL-2.1-or-later
"""What test_usb runs inside its guest, on the host's end of the bus: `python3 -m tests.lab.usb_guest VERB`.

read BYTES [SEED]   read noise through UsbTransport and the driver, of 'virtrng simulate' if a seed is given
unplug-in-mid-read  lose a key while a read waits
reset-until-lost    reset a key until it is gone

Each prints a JSON document. The key's end is tests.lab.usb_key.
"""

import json
import sys
import threading
import time
from pathlib import Path

from tests.lab.usb_key import LONG_TERM_KEY, NOISE_SEED, PORT, VHCI
from virtrng.errors import KeyLost
from virtrng.keys import find
from virtrng.keys.entropykey import ENTROPY_KEY, READ_BYTES, EntropyKey
from virtrng.keys.entropykey.session import RESET
from virtrng.sim.entropykey import SERIAL, derived, seeded_noise
from virtrng.transport import scan
from virtrng.transport.usb import UsbTransport

DEVICES = Path("/sys/bus/usb/devices")
DRIVERS = Path("/sys/bus/usb/drivers")
FRAME_BYTES = 64
QUIET_MS = 200
HASTY_MS = 100  # well under the quarter of a second in which a read fills: most are cancelled half done
FOR_EVER_MS = 600_000


def transport_to_the_key() -> UsbTransport:
    key = find.named(find.among(scan.usb_devices()), SERIAL)
    return UsbTransport(key.name, key.device)


def bound() -> dict[str, object]:
    """Return which of the key's interfaces the kernel's driver has, and which a program, through usbfs."""
    by_driver = {
        name: sorted(found.name.partition(":")[2] for found in (DRIVERS / name).glob("*:*"))
        for name in ("cdc_acm", "usbfs")
    }
    return {**by_driver, "ttyACM0": Path("/sys/class/tty/ttyACM0").exists()}


def read(wanted_bytes: int, seed: str = "") -> dict[str, object]:
    secret = derived(seed, "long-term key") if seed else LONG_TERM_KEY
    before = bound()
    key = EntropyKey(
        transport_to_the_key(),
        lambda _serial: secret,
        min_entropy=ENTROPY_KEY.min_entropy,
        read_bytes=READ_BYTES,
    )
    noise = bytearray()
    try:
        key.start()
        held = bound()
        while len(noise) < wanted_bytes:
            if more := key.read(HASTY_MS):
                noise += more.data
    finally:
        key.close()
    encrypt = seeded_noise(derived(seed, "noise") if seed else NOISE_SEED)
    encrypted = b"".join(encrypt(32) for _ in range(4 * wanted_bytes // 32))
    return {
        "before": before,
        "held": held,
        "after": bound(),
        "simulated": key.simulated,
        "read_bytes": len(noise),
        "is_what_was_encrypted": noise in encrypted,
        "frames_bad": key.counters.frames_bad,
    }


def urbs() -> int:
    """Return how many transfers the kernel has submitted to the key so far."""
    (key,) = (path.parent for path in DEVICES.glob("*/serial") if path.read_text().strip() == SERIAL)
    return int((key / "urbnum").read_text())


def unplug_in_mid_read() -> dict[str, object]:
    transport = transport_to_the_key()
    try:
        while transport.read(FRAME_BYTES, QUIET_MS):
            pass
        submitted = urbs()

        def unplug() -> None:
            while urbs() == submitted:
                time.sleep(0.01)
            Path(VHCI, "detach").write_text(f"{PORT}")

        thread = threading.Thread(target=unplug)
        thread.start()
        try:
            transport.read(FRAME_BYTES, FOR_EVER_MS)
        except KeyLost as lost:
            return {"lost": str(lost), "remedy": lost.remedy}
        finally:
            thread.join()
        return {"lost": None}
    finally:
        transport.close()
        transport.close()


def reset_until_lost() -> dict[str, object]:
    transport = transport_to_the_key()
    answers = 0
    try:
        while True:
            transport.write(RESET, FOR_EVER_MS)
            answers += bool(transport.read(FRAME_BYTES, FOR_EVER_MS))
    except KeyLost as lost:
        return {"lost": lost.key, "answers": answers}
    finally:
        transport.close()


def main(verb: str, *words: str) -> None:
    if verb == "read":
        report = read(int(words[0]), *words[1:])
    else:
        report = unplug_in_mid_read() if verb == "unplug-in-mid-read" else reset_until_lost()
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
