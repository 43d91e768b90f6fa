# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Simtec Entropy Key.

Devices:  Simtec Electronics Entropy Key (UDEKEY01), USB 20df:0001, a CDC-ACM device.
Protocol: 64-byte frames, each with a MAC under a session key; see docs/protocol/entropy-key.md.
Source:   README.protocol and README.security of ekeyd 1.1.5, and its host/ and device/ sources.
Status:   verified against published frames of a real key; not yet on hardware by us.

Two reverse-biased junctions, debiased and hashed inside the key: what comes out
is whitened, so that no test on the host could see that the noise behind it died.
"""

from functools import partial
from pathlib import Path

from virtrng.entropy.params import WHITENED_MIN_ENTROPY
from virtrng.keys.base import KeyKind, UsbMatch
from virtrng.keys.entropykey.driver import EntropyKey
from virtrng.keys.entropykey.frames import FRAME_BYTES
from virtrng.keys.entropykey.keyring import long_term_key
from virtrng.keys.entropykey.telemetry import Counters
from virtrng.transport.base import Transport

__all__ = ["ENTROPY_KEY", "Counters", "EntropyKey", "open_key"]


# What arrived together is verified together (lanes.py). A key fills 32 frames in a quarter of a second.
READ_BYTES = 32 * FRAME_BYTES


def open_key(transport: Transport, keyring: Path, min_entropy: float) -> EntropyKey:
    """Return the driver on `transport`, with its long-term key to come from the file `keyring`."""
    look_up = partial(long_term_key, keyring)
    return EntropyKey(
        transport, look_up, min_entropy=min_entropy, keyring=str(keyring), read_bytes=READ_BYTES
    )


ENTROPY_KEY = KeyKind(
    name="entropykey",
    title="Simtec Entropy Key",
    usb=(UsbMatch(0x20DF, 0x0001, "Entropy Key"),),
    min_entropy=WHITENED_MIN_ENTROPY,
    open=open_key,
)
