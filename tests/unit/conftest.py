# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nothing that a test starts or opens may outlive it."""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest


def _at_hand() -> set[str]:
    """Name the threads, children and descriptors of this process."""
    threads = {f"thread {thread.name} ({thread.ident})" for thread in threading.enumerate()}
    children = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # that of a thread that has just ended
            children |= {f"child {pid}" for pid in (task / "children").read_text().split()}
    descriptors = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            descriptors.add(f"descriptor {number}: {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:  # that of the directory just read
            continue
    return threads | children | descriptors


@pytest.fixture(autouse=True)
def nothing_outlives_a_test() -> Iterator[None]:
    """Fail the test that leaves a thread, a child or an open descriptor behind."""
    before = _at_hand()
    yield
    left = _at_hand() - before
    if left:
        gc.collect()  # what only a cycle of references keeps
        left = _at_hand() - before
    assert not left, f"it left behind: {', '.join(sorted(left))}"
