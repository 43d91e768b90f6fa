# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng keys pair`: as a user meets it, with a simulated key in the place of one on USB."""

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.bus import CARD, KEY, NAME, OTHER, OTHER_CARD, OTHER_SERIAL, Bus, nothing_happened
from tests.unit.cli.conftest import Command
from tests.unit.support import child_after
from virtrng import files
from virtrng.cli import keys_pair
from virtrng.errors import (
    BadMasterKey,
    ExitCode,
    KeyInUse,
    PairingUnfinished,
    SeveralUnpaired,
    WrongMasterKey,
)
from virtrng.keys.entropykey.keyring import long_term_keys, store
from virtrng.sim.entropykey import SERIAL

# --- done, or already so


@pytest.mark.parametrize("named", [[], [SERIAL], [f"entropykey:serial={SERIAL}"]], ids=" ".join)
def test_it_is_paired(bus: Bus, pair: Command, keyring: Path, named: list[str]) -> None:
    ran = pair(*named)
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines == [
        f"paired {NAME}: its long-term key is in {keyring}",
        (
            f"next: 'virtrng keys test {SERIAL} --keyring {keyring}' tries it; "
            f"'virtrng feed --key {SERIAL} --keyring {keyring}' feeds the pool from it"
        ),
    ]
    assert long_term_keys(keyring) == {SERIAL: bus.remembered[0]}
    assert bus.open == 0


def test_a_second_run_finds_that_it_works(bus: Bus, pair: Command, keyring: Path) -> None:
    pair()
    before = keyring.read_bytes(), keyring.stat().st_ino
    for arguments in ([], [SERIAL], ["--dry-run"]):
        ran = pair(*arguments, stdin=b"")
        assert (ran.code, ran.err) == (0, "")
        assert ran.lines == [
            f"{NAME} is paired already, and its long-term key in {keyring} works; nothing was changed"
        ]
    assert (keyring.read_bytes(), keyring.stat().st_ino) == before
    assert len(bus.remembered) == 1


def test_force_makes_another(bus: Bus, pair: Command, keyring: Path) -> None:
    pair()
    assert pair("--force").code == 0
    assert long_term_keys(keyring) == {SERIAL: bus.remembered[1]}


def test_a_key_that_was_paired_elsewhere_is_paired_anew(bus: Bus, pair: Command, keyring: Path) -> None:
    store(keyring, SERIAL, bytes(range(1, 33)))
    store(keyring, OTHER_SERIAL, bytes(range(2, 34)))
    ran = pair()
    assert ran.code == 0
    assert ran.err == f"the long-term key in {keyring} is not that of {NAME}: it needs a new one\n"
    assert long_term_keys(keyring) == {SERIAL: bus.remembered[0], OTHER_SERIAL: bytes(range(2, 34))}


def test_by_its_path(bus: Bus, pair: Command, keyring: Path) -> None:
    ran = pair("entropykey:/dev/ttyACM0")
    assert ran.code == 0
    assert long_term_keys(keyring) == {SERIAL: bus.remembered[0]}
    assert f"'virtrng feed --key entropykey:/dev/ttyACM0 --keyring {keyring}'" in ran.lines[1]


def test_json(bus: Bus, pair: Command, keyring: Path) -> None:
    told = {
        "kind": "entropykey", "serial": SERIAL, "simulated": True, "keyring": str(keyring),
        "paired": True, "changed": True,
    }  # fmt: skip
    assert pair("--dry-run", "--json").json == {**told, "paired": False, "changed": False}
    assert pair("--json").json == told
    assert pair("--json").json == {**told, "changed": False}


def test_dry_run_touches_the_key_and_changes_nothing(bus: Bus, pair: Command, keyring: Path) -> None:
    ran = pair("--dry-run", stdin=b"")
    assert ran.code == 0
    assert ran.lines == [f"{NAME} would get a new long-term key, in {keyring}; nothing was changed"]
    assert nothing_happened(bus, keyring)


def test_what_comes_next_where_a_feeder_runs(
    bus: Bus, pair: Command, keyring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold() -> files.Lock:
        lock = files.Lock(tmp_path / "run" / "feeder.lock")
        assert lock.acquire("virtrng feed (pid 7)") is None
        return lock

    with child_after(hold):
        takes = "next: nothing; virtrng feed (pid 7) takes the key within seconds"
        assert pair().lines[1] == f"{takes}, where it reads this keyring"
        monkeypatch.setattr(keys_pair, "DEFAULT_KEYRING", keyring)
        assert pair("--force").lines[1] == takes
    assert pair("--force").lines[1] == (
        f"next: 'virtrng keys test {SERIAL}' tries it; "
        "'systemctl start virtrng-feeder' feeds the pool from it"
    )


# --- which key


def test_none_is_there(bus: Bus, pair: Command) -> None:
    bus.plug_in()
    assert pair().code == pair(SERIAL).code == ExitCode.NO_KEY


def test_another_one_is_there(bus: Bus, pair: Command) -> None:
    ran = pair("nonesuch")
    assert (ran.code, ran.err.splitlines()[0]) == (4, "virtrng: no key matches 'nonesuch'")


def test_one_of_two_is_unpaired(bus: Bus, pair: Command, keyring: Path) -> None:
    bus.plug_in(OTHER, KEY)
    store(keyring, OTHER_SERIAL, bytes(32))
    assert pair().code == 0
    assert [*bus.firmware] == [SERIAL]


def test_several_are_unpaired(bus: Bus, pair: Command, keyring: Path) -> None:
    bus.plug_in(OTHER, KEY)
    ran = pair()
    assert ran.code == SeveralUnpaired.exit_code == 2
    assert ran.err.splitlines() == [
        "virtrng: more than one key is not paired yet",
        f"  name one of them: {OTHER_SERIAL}, {SERIAL}",
    ]
    assert nothing_happened(bus, keyring)


def test_all_of_several_are_in_the_keyring(bus: Bus, pair: Command, keyring: Path) -> None:
    bus.plug_in(OTHER, KEY)
    for serial in (SERIAL, OTHER_SERIAL):
        store(keyring, serial, bytes(32))
    ran = pair()
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines[0] == f"{keyring} has a long-term key for each key that is plugged in: nothing to do"
    assert pair("--json").json == {"keyring": str(keyring), "paired": True, "changed": False}
    assert bus.firmware == {}


# --- refused


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        (CARD.replace(b"9Q", b"9R"), "the master key's check byte does not match: a character is mistyped"),
        (CARD.replace(b"9Q", b""), "the master key is not 44 characters long but 42"),
        (CARD.replace(b"Aw", b"\xc3\xa9"), "character 5 of the master key is not base64 (A-Z a-z 0-9 + /)"),
        (CARD.replace(b"Aw", b"\xff\xff"), "character 5 of the master key is not base64 (A-Z a-z 0-9 + /)"),
        (b"", "the master key is not 44 characters long but 0"),
    ],
)
def test_a_mistyped_card(bus: Bus, pair: Command, keyring: Path, typed: bytes, why: str) -> None:
    ran = pair(stdin=typed)
    assert (ran.code, ran.out) == (BadMasterKey.exit_code, b"")
    assert ran.err.splitlines() == [
        f"virtrng: stdin: {why}",
        "  it is the 44 characters on the card that came with the key; spaces do not matter",
    ]
    assert nothing_happened(bus, keyring)


def test_without_stdin(bus: Bus, pair: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing(io.TextIOWrapper):
        def __new__(cls, *_: object) -> Any:
            return None

    monkeypatch.setattr(io, "TextIOWrapper", Nothing)
    assert "not 44 characters long but 0" in pair().err


def test_the_card_of_another_key(bus: Bus, pair: Command, keyring: Path) -> None:
    ran = pair(stdin=OTHER_CARD)
    assert (ran.code, ran.out) == (WrongMasterKey.exit_code, b"")
    assert ran.err.splitlines() == [
        f"virtrng: the master key is not that of the Entropy Key {SERIAL}",
        "  take the card that came with this key; its long-term key, if it has one, is still the same",
    ]
    assert nothing_happened(bus, keyring)


def test_a_keyring_that_is_not_as_it_must_be(bus: Bus, pair: Command, keyring: Path) -> None:
    store(keyring, OTHER_SERIAL, bytes(32))
    keyring.chmod(0o644)
    ran = pair(stdin=b"")
    assert (ran.code, ran.err.splitlines()[0]) == (1, f"virtrng: {keyring}: its mode is 0644")
    keyring.chmod(0o600)
    keyring.write_text("nonsense\n")
    assert pair().err.splitlines()[0] == f"virtrng: {keyring}: line 1 is malformed"
    assert keyring.read_text() == "nonsense\n"
    assert bus.firmware == {}, "the key was not touched"


def test_in_use_by_ekeyd(bus: Bus, pair: Command, keyring: Path) -> None:
    bus.trouble = KeyInUse("K", "ekeyd (pid 7)")
    ran = pair()
    assert ran.code == 1
    assert ran.err.splitlines() == [
        "virtrng: K is in use by ekeyd (pid 7)",
        (
            "  'systemctl stop ekeyd' first; to move from it for good: 'systemctl disable --now ekeyd' "
            "and 'virtrng keys import-ekeyd'"
        ),
    ]


def test_another_one_pairs_at_the_same_time(bus: Bus, pair: Command, keyring: Path) -> None:
    def hold() -> files.Lock:
        lock = files.Lock(keyring.with_name(".keyring.lock"))
        assert lock.acquire("virtrng keys (pid 7)") is None
        return lock

    with child_after(hold):
        ran = pair()
        assert ran.err.splitlines()[0] == f"virtrng: {keyring} is being changed by virtrng keys (pid 7)"
        assert nothing_happened(bus, keyring)
    assert pair().code == 0


def test_a_disk_that_fails_at_the_last_moment(
    bus: Bus, pair: Command, keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        ran = pair()
    assert (ran.code, ran.out) == (PairingUnfinished.exit_code, b"")
    assert ran.err.splitlines() == [
        (
            f"virtrng: the Entropy Key {SERIAL} may have a new long-term key that is in no keyring: "
            f"cannot write {keyring}: No space left on device"
        ),
        "  mend that, then run the same command again; until then the key may be of no use",
    ]
    assert [each.name for each in keyring.parent.iterdir()] == [".keyring.lock"]
    assert pair().code == 0
    assert long_term_keys(keyring) == {SERIAL: bus.remembered[1]}


def test_a_disk_that_is_full_before(bus: Bus, pair: Command, keyring: Path, monkeypatch: Any) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    ran = pair()
    assert ran.err.splitlines()[0] == f"virtrng: cannot write {keyring}: No space left on device"
    assert nothing_happened(bus, keyring)
