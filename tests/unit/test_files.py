# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files are replaced whole or not at all; a lock says who holds it."""

import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.support import child_after, in_child
from virtrng import files
from virtrng.errors import FileFailed
from virtrng.files import Lock


def test_a_file_is_made_with_its_directories_and_mode(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "file"
    old = os.umask(0o077)
    try:
        files.replace(file, b"content", 0o644)
    finally:
        os.umask(old)
    assert file.read_bytes() == b"content"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert [*file.parent.iterdir()] == [file]


def test_a_reader_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    files.replace(file, b"old", 0o600)
    with file.open("rb") as reader, files.replacing(file, 0o600) as writer:
        writer.write(b"new")
        writer.flush()
        assert file.read_bytes() == b"old"
        assert reader.read() == b"old"
    assert file.read_bytes() == b"new"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_an_exception_leaves_the_old_file_and_nothing_beside_it(
    error: type[BaseException], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def interrupted() -> None:
        with files.replacing(file, 0o600) as writer:
            writer.write(b"new")
            raise error

    with pytest.raises(error):
        interrupted()
    assert file.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [file]


def _limited(size_bytes: int, act: Callable[[], object]) -> Callable[[], object]:
    """Let no file grow beyond a size; as on a full disk, the kernel cuts the write short, then refuses it."""

    def limited() -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))
        return act()

    return limited


@pytest.mark.parametrize("size_bytes", [101, 100_000])
def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(size_bytes: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    said = in_child(_limited(100, lambda: files.replace(file, bytes(size_bytes), 0o600)))
    assert said == f"FileFailed: cannot write {file}: File too large"
    assert file.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [file]


def test_an_interrupt_on_a_full_disk(tmp_path: Path) -> None:
    file = tmp_path / "file"

    def interrupted() -> None:
        with files.replacing(file, 0o600) as writer:
            writer.write(bytes(200))
            raise KeyboardInterrupt

    assert in_child(_limited(100, interrupted)).startswith("FileFailed: ")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda file: file.mkdir(), "it is not a regular file"),
        (os.mkfifo, "it is not a regular file"),
        (lambda file: file.symlink_to("/dev/null"), "it is not a regular file"),
        (lambda file: file.symlink_to("nowhere"), "it is not a regular file"),
    ],
    ids=["directory", "fifo", "symlink to a device", "dangling symlink"],
)
def test_only_files_are_replaced(make: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    make(file)
    before = file.lstat()
    with pytest.raises(FileFailed) as caught:
        files.replace(file, b"new", 0o600)
    assert str(caught.value) == f"cannot replace {file}: {reason}"
    assert (file.lstat().st_ino, file.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert [*tmp_path.iterdir()] == [file]


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(FileFailed, match="cannot replace /dev/null: it is not a regular file"):
        files.replace(Path("/dev/null"), b"new", 0o600)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(FileFailed, match=r"Not a directory|File exists"):
        files.replace(tmp_path / "plain" / "file", b"", 0o600)
    tmp_path.chmod(0o755)
    said = in_child(lambda: files.replace(Path("/file-of-nobody"), b"", 0o600), nobody=True)
    assert said == "FileFailed: cannot write /file-of-nobody: Permission denied"


def test_the_temporary_file_can_be_elsewhere(tmp_path: Path) -> None:
    inside, beside = tmp_path / "in", tmp_path / "beside"
    beside.mkdir()
    with files.replacing(inside / "file", 0o700, temporary_dir=beside) as writer:
        assert [path.name.startswith(".file.") for path in beside.iterdir()] == [True]
        assert [*inside.iterdir()] == []
        writer.write(b"x")
    assert [*beside.iterdir()] == []
    assert stat.S_IMODE((inside / "file").stat().st_mode) == 0o700


# --- locks


def test_a_lock_that_nobody_holds(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "run" / "lock")
    assert files.holder(lock.path) is None
    assert not lock.path.exists()
    assert lock.acquire("me") is None
    assert lock.path.read_text() == "me\n"
    assert files.holder(lock.path) == "me"
    lock.release()
    lock.release()
    assert files.holder(lock.path) is None
    assert lock.path.exists()


def test_a_shorter_name_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    for name in ("a long name (pid 1)", "b"):
        lock = Lock(tmp_path / "lock")
        assert lock.acquire(name) is None
        lock.release()
    assert (tmp_path / "lock").read_text() == "b\n"


def test_a_lock_held_by_another_process_names_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    def hold() -> Lock:
        lock = Lock(path)
        assert lock.acquire(f"virtrng feed (pid {os.getpid()})") is None
        return lock

    with child_after(hold) as pid:
        assert Lock(path).acquire("me") == f"virtrng feed (pid {pid})"
        assert files.holder(path) == f"virtrng feed (pid {pid})"
    mine = Lock(path)  # the child has ended, and its lock with it
    assert mine.acquire("me") is None
    mine.release()


def test_a_holder_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holding = Lock(path)
    assert holding.acquire("") is None
    assert Lock(path).acquire("me") == "another process"
    assert files.holder(path) == "another process"
    holding.release()


def test_a_lock_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(FileFailed, match=r"cannot open .*plain/lock: "):
        Lock(tmp_path / "plain" / "lock").acquire("me")
    with pytest.raises(FileFailed, match="Is a directory"):
        Lock(tmp_path).acquire("me")


def test_a_lock_that_may_not_be_looked_at_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("")
    path.chmod(0)
    assert in_child(lambda: files.holder(path), nobody=True).startswith("PermissionError")
