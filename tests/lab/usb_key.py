# SPDX-License-Identifier: LGPL-2.1-or-later
"""A simulated Entropy Key, plugged into this very machine: `python3 -m tests.lab.usb_key BYTES_PER_S [SEED]`.

It ends when the key is unplugged, by writing PORT to VHCI/detach. What it imports is little: it starts often.
"""

import socket
import sys
import time
from pathlib import Path

from virtrng.sim.entropykey import SimulatedEntropyKey, seeded_noise
from virtrng.sim.usbip import DEVID, FULL_SPEED, Server

LONG_TERM_KEY = bytes(range(32))
NOISE_SEED = b"what the simulated key encrypts."
# vhci_hcd's ports for full and high speed come first.
VHCI = "/sys/devices/platform/vhci_hcd.0"
PORT = 0


def main(rate_bytes_per_s: float, noise_seed: bytes) -> None:
    ours, kernels = socket.socketpair()
    with kernels:
        Path(VHCI, "attach").write_text(f"{PORT} {kernels.fileno()} {DEVID} {FULL_SPEED}")
    firmware = SimulatedEntropyKey(
        long_term_key=LONG_TERM_KEY,
        now_s=time.monotonic(),
        rate_bytes_per_s=rate_bytes_per_s,
        noise=seeded_noise(noise_seed),
    )
    server = Server(firmware)
    server.plug_into(ours)
    server.serve()


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2].encode() if len(sys.argv) > 2 else NOISE_SEED)
