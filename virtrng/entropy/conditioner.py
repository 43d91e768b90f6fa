# SPDX-License-Identifier: LGPL-2.1-or-later
"""From tested noise to seeds.

Source: NIST SP 800-90B, 3.1.5.1.2: the output of a vetted conditioning function
(SHA-256, an approved hash) has full entropy when its input was assessed at 64 bits
more than it puts out; 256 + 64 = 320.
"""

import hashlib
from dataclasses import dataclass, field

from virtrng.entropy.params import CONDITIONER_INPUT_BITS, SEED_BITS, SEED_BYTES


@dataclass(frozen=True, slots=True)
class Seed:
    """32 bytes for the kernel, and the entropy to credit for them: 0 to 256 bits.

    Its repr shows the credit alone. Raises ValueError for other values.
    """

    data: bytes = field(repr=False)
    entropy_bits: int

    def __post_init__(self) -> None:
        if len(self.data) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(self.data)}")
        if not 0 <= self.entropy_bits <= SEED_BITS:
            raise ValueError(f"a seed is credited with 0 to {SEED_BITS} bits, not {self.entropy_bits}")


class Conditioner:
    """Gathers noise until it is worth a seed.

    Noise goes straight into the hash: no raw byte is kept.
    """

    def __init__(self) -> None:
        self.discard()

    def discard(self) -> None:
        """Forget all that was gathered, and start anew."""
        self._hash = hashlib.sha256()
        self._assessed_bits = 0

    def add(self, data: bytes, assessed_bits: int) -> None:
        """Gather bytes and the min-entropy that they were assessed at, in bits, as a whole.

        Raises ValueError, and gathers nothing, unless 0 <= assessed_bits <= 8 * len(data).
        """
        if not 0 <= assessed_bits <= 8 * len(data):
            raise ValueError(f"{len(data)} bytes were assessed at {assessed_bits} bits")
        self._hash.update(data)
        self._assessed_bits += assessed_bits

    @property
    def assessed_bits(self) -> int:
        """The min-entropy of all that was gathered since the last seed, in bits."""
        return self._assessed_bits

    @property
    def ready(self) -> bool:
        """Whether that is enough for a seed of full entropy: 320 bits."""
        return self._assessed_bits >= CONDITIONER_INPUT_BITS

    def take(self, *, credited: bool = True) -> Seed:
        """Return SHA-256 over all that was gathered, worth 256 bits, and start anew.

        With `credited=False` the seed is worth 0 bits: that is for simulated noise.
        Raises ValueError, and keeps what was gathered, if it is not `ready`.
        """
        if not self.ready:
            raise ValueError(f"{self._assessed_bits} of {CONDITIONER_INPUT_BITS} bits were gathered")
        seed = Seed(self._hash.digest(), SEED_BITS if credited else 0)
        self.discard()
        return seed
