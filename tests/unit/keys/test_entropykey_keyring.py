# SPDX-License-Identifier: LGPL-2.1-or-later
"""The keyring: its format, who may read it, and what is said when that is wrong."""

import base64
import grp
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from virtrng.errors import BadKeyring, FileFailed, NoLongTermKey
from virtrng.keys import kind_named
from virtrng.keys.entropykey.keyring import long_term_key
from virtrng.sim.entropykey import simulated

SERIAL = "NwBvBlg3OTBJORFD"
LTK = "C1lBpUH36XYxHR4QVw8b2TV+baSMLIrX6JRbMpgg6Xg="
OTHER = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keyring"


@pytest.fixture
def gid(monkeypatch: pytest.MonkeyPatch) -> int:
    """The group virtrng, as this process' own."""
    monkeypatch.setattr(grp, "getgrnam", lambda name: {"virtrng": SimpleNamespace(gr_gid=os.getegid())}[name])
    return os.getegid()


@pytest.fixture
def no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(grp, "getgrnam", unknown)


@pytest.mark.parametrize(
    "text",
    [
        f"{SERIAL} {LTK}\n",
        f"{SERIAL} {LTK}",
        f"# ekeyd's\n\nAAAAAAAAAAAAAAAA {OTHER}\n  {SERIAL}\t{LTK}  # mine\r\n",
        f"{SERIAL} {OTHER}\n{SERIAL} {LTK}\n",
    ],
)
def test_the_long_term_key_of_a_serial(path: Path, text: str) -> None:
    assert long_term_key(write(path, text), SERIAL) == base64.b64decode(LTK)


@pytest.mark.parametrize("text", ["", "# nothing\n", f"AAAAAAAAAAAAAAAA {LTK}\n", f"# {SERIAL} {LTK}\n"])
def test_a_serial_that_is_not_there(path: Path, text: str) -> None:
    with pytest.raises(NoLongTermKey) as missing:
        long_term_key(write(path, text), SERIAL)
    assert (missing.value.serial, missing.value.keyring) == (SERIAL, str(path))


def test_no_keyring_at_all(path: Path) -> None:
    with pytest.raises(NoLongTermKey, match=str(path)):
        long_term_key(path, SERIAL)


@pytest.mark.parametrize(
    "line",
    [
        SERIAL,
        f"{SERIAL} {LTK[:-1]}",
        f"{SERIAL} {LTK} x",
        f"{SERIAL} {LTK} {LTK}",
        f"{SERIAL[:-4]} {LTK}",
        f"{SERIAL[:-1]}- {LTK}",
        f"{LTK} {SERIAL}",
        f"{SERIAL}{LTK}",
        "é é",
    ],
)
def test_a_malformed_line_is_named_by_its_number_and_not_repeated(path: Path, line: str) -> None:
    write(path, f"# comment\n{SERIAL} {LTK}\n{line}\n")
    with pytest.raises(BadKeyring) as bad:
        long_term_key(path, SERIAL)
    assert str(bad.value) == f"{path}: line 3 is malformed"
    assert LTK[:10] not in str(bad.value) + bad.value.remedy + repr(bad.value)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_modes_that_are_narrow_enough(path: Path, mode: int, no_group: None) -> None:
    assert long_term_key(write(path, f"{SERIAL} {LTK}\n", mode), SERIAL)


@pytest.mark.parametrize("mode", [0o640, 0o440, 0o600])
def test_the_group_virtrng_may_read(path: Path, mode: int, gid: int) -> None:
    assert long_term_key(write(path, f"{SERIAL} {LTK}\n", mode), SERIAL)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601, 0o660, 0o620, 0o666, 0o650])
def test_wider_modes_with_the_group(path: Path, mode: int, gid: int) -> None:
    with pytest.raises(BadKeyring) as bad:
        long_term_key(write(path, f"{SERIAL} {LTK}\n", mode), SERIAL)
    assert str(bad.value) == f"{path}: its mode is {mode:04o}"
    assert bad.value.remedy == f"'chown root:virtrng {path}' and 'chmod 640 {path}'"


@pytest.mark.parametrize("mode", [0o640, 0o440, 0o644])
def test_wider_modes_without_the_group(path: Path, mode: int, no_group: None) -> None:
    with pytest.raises(BadKeyring) as bad:
        long_term_key(write(path, f"{SERIAL} {LTK}\n", mode), SERIAL)
    assert f"chmod 600 {path}" in bad.value.remedy


def test_another_group_may_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grp, "getgrnam", lambda _: SimpleNamespace(gr_gid=os.getegid() + 1))
    with pytest.raises(BadKeyring, match=f"group {os.getegid()} may read it"):
        long_term_key(write(path, f"{SERIAL} {LTK}\n", 0o640), SERIAL)


def test_another_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, f"{SERIAL} {LTK}\n")
    found = path.stat()
    other = os.stat_result((found.st_mode, 0, 0, 1, 12345, found.st_gid, 0, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda _: other)
    with pytest.raises(BadKeyring, match="belongs to user 12345"):
        long_term_key(path, SERIAL)


def test_a_keyring_that_this_user_may_not_open(path: Path, monkeypatch: pytest.MonkeyPatch, gid: int) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BadKeyring, match="may not read it") as bad:
        long_term_key(path, SERIAL)
    assert "chmod 640" in bad.value.remedy


def test_a_fifo_is_refused_without_waiting(path: Path) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(BadKeyring, match="not a regular file"):
        long_term_key(path, SERIAL)


def test_a_directory_cannot_be_read(path: Path) -> None:
    path.mkdir()
    with pytest.raises((BadKeyring, FileFailed)):
        long_term_key(path, SERIAL)


def test_a_path_through_a_file(path: Path) -> None:
    write(path, "")
    with pytest.raises(FileFailed, match="cannot read"):
        long_term_key(path / "keyring", SERIAL)


def test_the_registry_opens_a_key_with_a_keyring(path: Path) -> None:
    now_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    transport, secret = simulated(clock=lambda: now_s, sleep=sleep)
    serial = transport.key.partition("=")[2]
    write(path, f"{serial} {base64.b64encode(secret).decode()}\n")
    kind = kind_named("entropykey")
    assert kind is not None
    key = kind.open(transport, path, kind.min_entropy)
    key.start()
    noise = key.read(10_000)
    assert noise is not None
    assert (key.serial, noise.claimed_bits) == (serial, 4 * len(noise.data))
    key.close()
