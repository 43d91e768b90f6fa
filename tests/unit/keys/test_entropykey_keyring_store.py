# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writing the keyring: one entry changes, all else stays, and the file is never half of anything."""

import base64
import grp
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.support import child_after, in_child, is_root
from virtrng.errors import BadKeyring, FileFailed, KeyringBusy, NoLongTermKey
from virtrng.keys.entropykey import keyring
from virtrng.keys.entropykey.keyring import (
    foreign_long_term_keys,
    long_term_key,
    long_term_keys,
    store,
    storing,
)

SERIAL = "NwBvBlg3OTBJORFD"
OTHER_SERIAL = "M/IYATBjUU1ACsGt"
SECRET = bytes(range(32))
OLD = bytes(range(32, 64))
LINE = f"{SERIAL} {base64.b64encode(SECRET).decode()}\n"
OLD_LINE = f"{SERIAL} {base64.b64encode(OLD).decode()}\n"
OTHER_LINE = f"{OTHER_SERIAL} {base64.b64encode(OLD).decode()}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keyring"


@pytest.fixture(autouse=True)
def no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    group(monkeypatch, None)


def group(monkeypatch: pytest.MonkeyPatch, gid: int | None) -> None:
    """Have the group virtrng, or none."""

    def look_up(name: str) -> SimpleNamespace:
        assert name == "virtrng"
        if gid is None:
            raise KeyError(name)
        return SimpleNamespace(gr_gid=gid)

    monkeypatch.setattr(grp, "getgrnam", look_up)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def left_beside(path: Path) -> list[str]:
    """Name what else is in its directory, but for the lock."""
    return sorted({each.name for each in path.parent.iterdir()} - {path.name, ".keyring.lock"})


# --- what is in it


def test_the_first_entry_makes_the_file(path: Path) -> None:
    store(path, SERIAL, SECRET)
    assert path.read_text() == LINE
    assert long_term_key(path, SERIAL) == SECRET


def test_a_directory_is_made_as_well(tmp_path: Path) -> None:
    store(tmp_path / "etc" / "virtrng" / "keyring", SERIAL, SECRET)
    assert (tmp_path / "etc" / "virtrng" / "keyring").read_text() == LINE


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", LINE),
        (OTHER_LINE, OTHER_LINE + LINE),
        (OTHER_LINE.rstrip("\n"), OTHER_LINE + LINE),
        (OLD_LINE, LINE),
        (LINE, LINE),
        (OLD_LINE + OTHER_LINE, LINE + OTHER_LINE),
        (f"# mine\n\n{OLD_LINE}# end\n", f"# mine\n\n{LINE}# end\n"),
        (f"# {OLD_LINE}", f"# {OLD_LINE}{LINE}"),
        (OLD_LINE.replace("\n", "  # desk\n"), LINE.replace("\n", "  # desk\n")),
        (OLD_LINE.replace("\n", "\r\n") + OTHER_LINE, LINE.replace("\n", "\r\n") + OTHER_LINE),
        (f"  {OLD_LINE.replace(' ', chr(9))}", f"  {LINE.replace(' ', chr(9))}"),
        (OLD_LINE + OTHER_LINE + OLD_LINE, OTHER_LINE + LINE),
    ],
)
def test_one_entry_changes_and_all_else_stays(path: Path, before: str, after: str) -> None:
    write(path, before)
    store(path, SERIAL, SECRET)
    assert path.read_bytes() == after.encode()


SERIALS = [base64.b64encode(bytes((number,)) * 12).decode() for number in range(4)]
SECRETS = st.binary(min_size=32, max_size=32)
TAILS = st.sampled_from(["", " # x", "\r"])
ENTRY = st.builds(
    lambda serial, blank, secret, tail: f"{serial}{blank}{base64.b64encode(secret).decode()}{tail}\n",
    st.sampled_from(SERIALS), st.sampled_from([" ", "\t", "  "]), SECRETS, TAILS,
)  # fmt: skip
COMMENT = st.sampled_from(["# a comment\n", "\n", "   # éé\n"])


@given(st.lists(ENTRY | COMMENT, max_size=8), st.dictionaries(st.sampled_from(SERIALS), SECRETS))
def test_what_is_put_in_is_what_comes_out(lines: list[str], put_in: dict[str, bytes]) -> None:
    old = "".join(lines).encode()
    new = keyring._changed(old, put_in)
    parsed = keyring._parsed(Path("k"), new)
    assert parsed == {**keyring._parsed(Path("k"), old), **put_in}
    for line in old.splitlines():
        if line[:16].decode(errors="replace") not in put_in:
            assert line in new.splitlines()


def test_several_at_once(path: Path) -> None:
    write(path, OLD_LINE)
    with storing(path) as put:
        put({SERIAL: SECRET})
        put({OTHER_SERIAL: OLD})
        assert path.read_text() == OLD_LINE, "a reader sees the old one until all is there"
    assert path.read_text() == LINE + OTHER_LINE


# --- whose it is


def mode_of(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


@pytest.mark.parametrize("before", [None, 0o600, 0o400])
def test_without_the_group_it_is_its_owners_alone(path: Path, before: int | None) -> None:
    if before is not None:
        write(path, OLD_LINE, before)
    store(path, SERIAL, SECRET)
    assert mode_of(path) == (0o600, os.geteuid(), os.getegid())


@pytest.mark.parametrize("before", [None, 0o600])
def test_with_the_group_it_may_read(path: Path, before: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if before is not None:
        write(path, OLD_LINE, before)
    group(monkeypatch, 12345)
    store(path, SERIAL, SECRET)
    # Another user than root cannot give a file to a group; whose keyring it is, is the user's own.
    expected = (0o640, 0, 12345) if is_root() else (0o600, os.geteuid(), os.getegid())
    assert mode_of(path) == expected
    assert long_term_key(path, SERIAL) == SECRET


def test_the_lock_is_its_owners_alone(path: Path) -> None:
    store(path, SERIAL, SECRET)
    assert stat.S_IMODE(path.with_name(".keyring.lock").stat().st_mode) == 0o600


# --- refused, and untouched


def refused(path: Path, text: str) -> BadKeyring:
    """Store, which must be refused before anything is given to put into."""
    given_in = []
    with pytest.raises(BadKeyring) as bad, storing(path) as put:
        given_in.append(put)
    assert given_in == []
    assert path.read_text() == text
    assert left_beside(path) == []
    return bad.value


def test_a_malformed_one(path: Path) -> None:
    text = f"{OTHER_LINE}{SERIAL} nonsense\n"
    bad = refused(write(path, text), text)
    assert str(bad) == f"{path}: line 2 is malformed"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666, 0o602])
def test_a_wide_one_without_the_group(path: Path, mode: int) -> None:
    bad = refused(write(path, OLD_LINE, mode), OLD_LINE)
    assert str(bad) == f"{path}: " + (
        f"group {os.getegid()} may read it" if mode == 0o640 else f"its mode is {mode:04o}"
    )
    assert bad.remedy == f"it must be root's, or yours, alone: 'chown root {path}' and 'chmod 600 {path}'"


def test_a_wide_one_with_the_group(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group(monkeypatch, 12345)
    bad = refused(write(path, OLD_LINE, 0o640), OLD_LINE)
    assert bad.remedy == f"'chown root:virtrng {path}' and 'chmod 640 {path}'"


def test_a_link_is_not_replaced(path: Path) -> None:
    write(path.with_name("real"), OLD_LINE)
    path.symlink_to("real")
    with pytest.raises(FileFailed, match="it is not a regular file"):
        store(path, SERIAL, SECRET)
    assert path.read_text() == OLD_LINE
    assert path.is_symlink()


def test_a_lock_that_is_a_link_is_not_followed(path: Path) -> None:
    path.with_name(".keyring.lock").symlink_to("precious")
    write(path.with_name("precious"), "precious")
    with pytest.raises(FileFailed):
        store(path, SERIAL, SECRET)
    assert path.with_name("precious").read_text() == "precious"


# --- interrupted


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, RuntimeError, NoLongTermKey("x", "y")])
@pytest.mark.parametrize("put_in", [{}, {SERIAL: SECRET}], ids=["before", "after"])
def test_what_fails_in_between_changes_nothing(
    path: Path, trouble: type[BaseException] | BaseException, put_in: dict[str, bytes]
) -> None:
    write(path, OLD_LINE)

    def fail() -> None:
        with storing(path) as put:
            put(put_in)
            raise trouble

    with pytest.raises(trouble if isinstance(trouble, type) else type(trouble)):
        fail()
    assert path.read_text() == OLD_LINE
    assert left_beside(path) == []
    store(path, SERIAL, SECRET)  # the lock is free again


def test_a_full_disk_tells_before_the_key_is_asked(path: Path) -> None:
    write(path, OLD_LINE)

    def on_a_full_disk() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(OLD_LINE) + 10, len(OLD_LINE) + 10))
        try:
            with storing(path):
                return "it was not noticed"
        except FileFailed as full:
            return str(full)

    assert in_child(on_a_full_disk) == f"cannot write {path}: File too large"
    assert path.read_text() == OLD_LINE
    assert left_beside(path) == []


def test_nothing_more_is_needed_at_the_end_than_was_taken(path: Path) -> None:
    write(path, OTHER_LINE.rstrip("\n"))
    limit = len(OTHER_LINE) - 1 + len(LINE)

    def with_just_enough() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit + 1, limit + 1))
        store(path, SERIAL, SECRET)
        return "done"

    assert in_child(with_just_enough) == "done"
    assert path.read_text() == OTHER_LINE + LINE


# --- two at once


def test_the_second_is_told_who_changes_it(path: Path) -> None:
    def hold() -> object:
        held = storing(path)
        held.__enter__()
        return held

    with child_after(hold) as pid:
        with pytest.raises(KeyringBusy) as busy:
            store(path, SERIAL, SECRET)
        assert str(busy.value) == f"{path} is being changed by virtrng keys (pid {pid})"
    store(path, SERIAL, SECRET)
    assert path.read_text() == LINE


def test_none_of_many_at_once_is_lost(path: Path) -> None:
    serials = [base64.b64encode(bytes((number,)) * 12).decode() for number in range(8)]

    def insist(serial: str) -> Callable[[], None]:
        def act() -> None:
            while True:
                try:
                    return store(path, serial, SECRET)
                except KeyringBusy:
                    continue

        return act

    pids = []
    for serial in serials:
        pid = os.fork()
        if pid == 0:
            try:
                insist(serial)()
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    assert long_term_keys(path) == dict.fromkeys(serials, SECRET)
    assert left_beside(path) == []


# --- ekeyd's


def test_all_of_a_foreign_one(path: Path) -> None:
    write(path, f"# ekeyd's\n{OLD_LINE}{OTHER_LINE}{LINE}")
    assert foreign_long_term_keys(path) == ({SERIAL: SECRET, OTHER_SERIAL: OLD}, False)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_foreign_one_may_be_wide_and_that_is_told(path: Path, mode: int) -> None:
    assert foreign_long_term_keys(write(path, LINE, mode)) == ({SERIAL: SECRET}, True)


def test_a_malformed_foreign_one(path: Path) -> None:
    with pytest.raises(BadKeyring, match="line 1 is malformed"):
        foreign_long_term_keys(write(path, SERIAL))


def test_a_foreign_one_that_is_not_there(path: Path) -> None:
    with pytest.raises(BadKeyring, match="there is no such file") as missing:
        foreign_long_term_keys(path)
    assert "name the file" in missing.value.remedy
    path.mkdir()
    with pytest.raises(FileFailed, match="cannot read"):
        foreign_long_term_keys(path)


def test_a_foreign_one_that_is_not_ours_to_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BadKeyring, match="may not read it") as denied:
        foreign_long_term_keys(path)
    assert denied.value.remedy == "run as root"
