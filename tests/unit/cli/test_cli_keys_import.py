# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng keys import-ekeyd`: which entries come over, and what is said of them."""

import base64
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command
from tests.unit.support import child_after
from virtrng import files
from virtrng.cli import keys_import
from virtrng.keys.entropykey.keyring import long_term_keys

SERIALS = [base64.b64encode(bytes((number,)) * 12).decode() for number in range(3)]
A, B, C = SERIALS
NEXT = "next: 'systemctl disable --now ekeyd', then 'systemctl start virtrng-feeder'"


def line(serial: str, secret: int) -> str:
    return f"{serial} {base64.b64encode(bytes((secret,)) * 32).decode()}\n"


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """What ekeyd has."""
    return write(tmp_path / "theirs", f"# Entropy Key keyring\n{line(A, 1)}{line(B, 2)}{line(C, 3)}")


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """What we have: one the same, one of another pairing, and a comment."""
    return write(tmp_path / "ours", f"# ours\n{line(A, 1)}{line(B, 9)}")


def test_each_entry_is_accounted_for(command: Command, theirs: Path, ours: Path) -> None:
    ran = command("keys", "import-ekeyd", theirs, "--keyring", ours)
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines == [
        f"{A}  already there",
        f"{B}  replaced: there was another long-term key for it",
        f"{C}  new",
        f"wrote 2 of 3 to {ours}",
        NEXT,
    ]
    assert ours.read_text() == f"# ours\n{line(A, 1)}{line(B, 2)}{line(C, 3)}"
    assert not [secret for secret in long_term_keys(ours).values() if base64.b64encode(secret) in ran.out]


def test_a_second_run_changes_nothing(command: Command, theirs: Path, ours: Path) -> None:
    command("keys", "import-ekeyd", theirs, "--keyring", ours)
    before = ours.stat().st_ino
    ran = command("keys", "import-ekeyd", theirs, "--keyring", ours)
    assert ran.lines[-1] == f"{ours} has them all; nothing was changed"
    assert ours.stat().st_ino == before


def test_the_first_keyring_is_made(command: Command, theirs: Path, tmp_path: Path) -> None:
    new = tmp_path / "etc" / "keyring"
    assert command("keys", "--keyring", new, "import-ekeyd", theirs).code == 0
    assert long_term_keys(new) == long_term_keys(theirs)


def test_dry_run(command: Command, theirs: Path, ours: Path) -> None:
    before = ours.read_bytes()
    ran = command("keys", "import-ekeyd", theirs, "--keyring", ours, "--dry-run")
    assert ran.code == 0
    assert ran.lines[-1] == f"it would write 2 of 3 to {ours}; nothing was changed"
    assert ours.read_bytes() == before
    assert {each.name for each in ours.parent.iterdir()} == {"theirs", "ours"}


def test_json(command: Command, theirs: Path, ours: Path) -> None:
    became = [
        {"serial": A, "became": "unchanged"},
        {"serial": B, "became": "replaced"},
        {"serial": C, "became": "new"},
    ]
    told = {"file": str(theirs), "keyring": str(ours), "changed": False, "keys": became}
    arguments = ("keys", "import-ekeyd", theirs, "--keyring", ours, "--json")
    assert command(*arguments, "--dry-run").json == told
    assert command(*arguments).json == {**told, "changed": True}


def test_a_malformed_line_and_nothing_is_changed(command: Command, theirs: Path, ours: Path) -> None:
    write(theirs, f"{line(C, 3)}{line(A, 1)[:-6]}\n")
    before = ours.read_bytes()
    ran = command("keys", "import-ekeyd", theirs, "--keyring", ours)
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.splitlines()[0] == f"virtrng: {theirs}: line 2 is malformed"
    assert ours.read_bytes() == before


def test_ours_is_not_as_it_must_be(command: Command, theirs: Path, ours: Path) -> None:
    ours.chmod(0o644)
    ran = command("keys", "import-ekeyd", theirs, "--keyring", ours)
    assert (ran.code, ran.err.splitlines()[0]) == (1, f"virtrng: {ours}: its mode is 0644")


def test_theirs_was_open_to_others(command: Command, theirs: Path, ours: Path) -> None:
    theirs.chmod(0o644)
    ran = command("keys", "import-ekeyd", theirs, "--keyring", ours)
    assert ran.code == 0
    assert ran.err.splitlines() == [
        f"virtrng: others than its owner can read {theirs}",
        "  where nobody else may know its long-term keys: 'virtrng keys pair --force SERIAL'",
    ]


def test_an_empty_one(command: Command, theirs: Path, ours: Path) -> None:
    write(theirs, "# nothing\n", 0o644)
    ran = command("keys", "import-ekeyd", theirs, "--keyring", ours)
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines == [f"{theirs} has no long-term key; nothing was changed"]


def test_the_place_where_ekeyd_keeps_it(
    command: Command, theirs: Path, ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Path("/etc/entropykey/keyring") == keys_import.EKEYD_KEYRING
    monkeypatch.setattr(keys_import, "EKEYD_KEYRING", theirs)
    assert command("keys", "import-ekeyd", "--keyring", ours).code == 0
    monkeypatch.setattr(keys_import, "EKEYD_KEYRING", tmp_path / "none")
    ran = command("keys", "import-ekeyd", "--keyring", ours)
    assert ran.code == 1
    assert ran.err.splitlines() == [
        f"virtrng: {tmp_path}/none: there is no such file",
        "  name the file, if it is elsewhere; 'virtrng keys pair' pairs a key that ekeyd never had",
    ]


def test_while_another_changes_it(command: Command, theirs: Path, ours: Path) -> None:
    def hold() -> files.Lock:
        lock = files.Lock(ours.with_name(".ours.lock"))
        assert lock.acquire("virtrng keys (pid 7)") is None
        return lock

    with child_after(hold):
        ran = command("keys", "import-ekeyd", theirs, "--keyring", ours)
    assert ran.err.splitlines()[0] == f"virtrng: {ours} is being changed by virtrng keys (pid 7)"
