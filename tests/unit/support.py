# SPDX-License-Identifier: LGPL-2.1-or-later
"""What many unit tests need: children that end with the test, and the command as a process."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import AnyStr

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


def is_root() -> bool:
    """Whether this process may do everything; where not, the tests assert the error instead."""
    return os.geteuid() == 0


def drop_to_nobody() -> None:
    """Become an ordinary user for good; nothing where that is what we are."""
    if is_root():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def in_child(act: Callable[[], object], *, nobody: bool = False) -> str:
    """Return what `act` gave, as text, or 'CLASS: MESSAGE' of what it raised, when run in a child."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            if nobody:
                drop_to_nobody()
            os.write(writing, f"{act()}".encode())
        except BaseException as error:  # noqa: BLE001  the parent judges it
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(pid, 0)
    return said


def readable_tree(where: Path) -> Path:
    """Return a copy of the package below `where`: the tree may lie where its owner alone can read."""
    tree = where / "tree"
    shutil.copytree(ROOT / "virtrng", tree / "virtrng", dirs_exist_ok=True)
    return tree


@contextmanager
def child_after(act: Callable[[], object]) -> Iterator[int]:
    """Run `act` in a child that then waits until the block ends; gives its process id."""
    ready_reading, ready_writing = os.pipe()
    end_reading, end_writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(end_writing)
            kept = act()
            os.write(ready_writing, b"ready")
            os.read(end_reading, 1)
            del kept
        finally:
            os._exit(0)
    os.close(ready_writing)
    os.close(end_reading)
    try:
        with os.fdopen(ready_reading, "rb") as pipe:
            assert pipe.read(5) == b"ready"
        yield pid
    finally:
        os.close(end_writing)
        os.waitpid(pid, 0)


def difference(before: AnyStr, after: AnyStr) -> tuple[AnyStr, AnyStr]:
    """Return what is left of both without their common beginning and end."""
    before, after = _without_common_beginning(before, after)
    before, after = _without_common_beginning(before[::-1], after[::-1])
    return before[::-1], after[::-1]


def _without_common_beginning(one: AnyStr, other: AnyStr) -> tuple[AnyStr, AnyStr]:
    pairs = enumerate(zip(one, other, strict=False))
    start = next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
    return one[start:], other[start:]


def virtrng(
    *arguments: str, stdin: bytes = b"", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the command of this checkout as a process, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "virtrng", *arguments],
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        env=os.environ | (environment or {}),
        check=False,
    )
