# SPDX-License-Identifier: LGPL-2.1-or-later
"""A feeder as `virtrng status` meets one: what it wrote, and its lock."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from virtrng import files, status
from virtrng.status import FeederStatus, KernelStatus, KeyStatus

NOW_S = 10_000.0  # of CLOCK_BOOTTIME
UNIX_S = 1_700_000_000.0
KEY = KeyStatus(
    "entropykey", "a/b", "ok", simulated=False, bytes_read=10_000, blocks_tested=4, blocks_failed=1,
    frames_bad=2, sessions=1, last_fault=None,
)  # fmt: skip
NAME = "entropykey:serial=a/b"
FED = FeederStatus(UNIX_S, 42, (KEY,), KernelStatus(3, 768, 7500, UNIX_S - 5, NOW_S - 5, 256))
FEEDER = f"virtrng feed (pid {os.getpid()})"


@contextmanager
def running(run_dir: Path, feeder: FeederStatus | None = FED) -> Iterator[None]:
    """Have a feeder run, which has written this last."""
    if feeder:
        status.write(run_dir, feeder)
    lock = files.Lock(run_dir / status.LOCK_NAME, mode=0o600)
    assert lock.acquire(FEEDER) is None
    try:
        yield
    finally:
        lock.release()
