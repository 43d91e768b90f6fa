# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Entropy Key's master key, and what the long-term key is derived from it with.

Source: README.protocol of ekeyd 1.1.5; its host/ekey-setkey.c and host/crc8.c.
"""

import base64
import binascii

from virtrng.keys.entropykey.session import SECRET_BYTES, Personalisation, truncate
from virtrng.keys.entropykey.skein import prepare

_CRC8_POLYNOMIAL = 0x31
_CRC8_INITIAL = 0xFF
CARD_CHARACTERS = 44
_CARD_ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


def crc8(data: bytes) -> int:
    """Return the check byte of a master-key card: polynomial 0x31, from 0xff, MSB first."""
    crc = _CRC8_INITIAL
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (_CRC8_POLYNOMIAL if crc & 0x80 else 0)) & 0xFF
    return crc


def master_key(card: str) -> bytes:
    """Return the 32 bytes on a master-key card, spaces ignored, with or without their check byte.

    Raises ValueError, in words for the user and without what was typed.
    """
    characters = "".join(card.split())
    for number, each in enumerate(characters.rstrip("="), start=1):
        if each not in _CARD_ALPHABET:
            raise ValueError(f"character {number} of the master key is not base64 (A-Z a-z 0-9 + /)")
    # Without its check byte it ends in "=", or else one character of a card was left out.
    if len(characters) != CARD_CHARACTERS or characters.endswith("=="):
        raise ValueError(f"the master key is not {CARD_CHARACTERS} characters long but {len(characters)}")
    try:
        decoded = base64.b64decode(characters, validate=True)
    except (ValueError, binascii.Error):
        raise ValueError("the master key is not base64") from None
    secret, check = decoded[:SECRET_BYTES], decoded[SECRET_BYTES:]
    if check and check[0] != crc8(secret):
        raise ValueError("the master key's check byte does not match: a character is mistyped")
    return secret


def nonce_mac(serial: bytes, master: bytes, nonce: bytes) -> bytes:
    """Return the 6 bytes that the command M carries for the nonce of the L that follows it."""
    return truncate(prepare(serial, master, Personalisation.LONG_TERM_AUTHENTICATION.value).final_pad(nonce))


def long_term_key(serial: bytes, master: bytes, nonce: bytes, device_entropy: bytes) -> bytes:
    """Return the 32-byte long-term key that L with `nonce` and L! with `device_entropy` agree on."""
    return prepare(serial, master, Personalisation.LONG_TERM_REKEYING.value).final(device_entropy + nonce)
