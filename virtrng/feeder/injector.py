# SPDX-License-Identifier: LGPL-2.1-or-later
"""The last step: a seed goes into the kernel's pool, and takes effect."""

import os

from virtrng import kernel
from virtrng.entropy.conditioner import Seed
from virtrng.status import KernelStatus


class Injector:
    """Holds /dev/random open, and counts what went in. Needs CAP_SYS_ADMIN at every call."""

    def __init__(self, *, reseed: bool) -> None:
        """Open /dev/random; `reseed`: each seed takes effect at once. Raises KernelRefused or FileFailed."""
        self._reseed = reseed
        self._fd = kernel.open_random()
        self._seeds = 0
        self._seeded_bits = 0
        self._bytes_passed = 0
        self._last: tuple[float, float] | tuple[None, None] = (None, None)
        try:
            kernel.check_access(self._fd)
        except BaseException:
            self.close()
            raise

    def inject(self, seed: Seed, *, made_of_bytes: int, now: float) -> None:
        """Mix `seed` in with its credit; `now` is Unix time. Raises KernelRefused."""
        kernel.add_entropy(self._fd, seed.data, seed.entropy_bits)
        if self._reseed:
            kernel.reseed(self._fd)
        self._seeds += 1
        self._seeded_bits += seed.entropy_bits
        self._bytes_passed += made_of_bytes
        self._last = (now, kernel.boottime_s())

    @property
    def status(self) -> KernelStatus:
        """What was given so far."""
        return KernelStatus(
            seeds=self._seeds,
            seeded_bits=self._seeded_bits,
            bytes_passed=self._bytes_passed,
            last_seed_at=self._last[0],
            last_seed_boottime_s=self._last[1],
            entropy_avail_bits=kernel.entropy_avail(self._fd),
        )

    def close(self) -> None:
        """Close /dev/random."""
        os.close(self._fd)
