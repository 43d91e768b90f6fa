# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keys that wait for their keyring: left alone meanwhile, reported once, and used without a restart."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.feeder.rig import Clock, Rig, ScriptedKey, admitted, used
from virtrng.errors import BadKeyring, KeyLost, KeyTrouble, NoLongTermKey, WrongLongTermKey
from virtrng.feeder.keyrings import WRONG_KEY_RETRY_S, Keyrings
from virtrng.feeder.source import Look, Source
from virtrng.keys.entropykey import EntropyKey
from virtrng.keys.entropykey.exchange import Pairing
from virtrng.keys.entropykey.keyring import long_term_key, store
from virtrng.sim.entropykey import SERIAL, SimulatedEntropyKey, SimulatedTransport

SECRET = bytes(range(32))


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    return tmp_path / "keyring"


# --- which keys wait


TROUBLE: dict[str, Callable[[Path], KeyTrouble]] = {
    "unpaired": lambda keyring: NoLongTermKey("x", str(keyring)),
    "bad keyring": lambda keyring: BadKeyring(str(keyring), "its mode is 0644", "0600"),
}


@pytest.fixture(params=list(TROUBLE.values()), ids=list(TROUBLE))
def trouble(request: pytest.FixtureRequest, keyring: Path) -> KeyTrouble:
    make: Callable[[Path], KeyTrouble] = request.param
    return make(keyring)


CHANGES: dict[str, Callable[[Path], object]] = {
    "written": lambda keyring: store(keyring, SERIAL, SECRET),
    "chmod": lambda keyring: keyring.chmod(0o400),
    "removed": lambda keyring: keyring.unlink(),
    "in place": lambda keyring: keyring.write_text("#"),
}


def settled(keyrings: Keyrings, trouble: KeyTrouble) -> Keyrings:
    """Have it look twice: once for the trouble, once for a change while that arose."""
    for _ in range(2):
        assert not keyrings.waits("a")
        assert keyrings.note("a", trouble)
    assert keyrings.waits("a")
    return keyrings


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_waits_until_the_keyring_changes(
    trouble: KeyTrouble, keyring: Path, change: Callable[[Path], object]
) -> None:
    store(keyring, "AAAAAAAAAAAAAAAA", SECRET)
    clock = Clock()
    keyrings = settled(Keyrings(clock), trouble)
    clock.sleep(1e6)
    assert keyrings.waits("a")
    change(keyring)
    assert not keyrings.waits("a")
    keyrings.note("a", trouble)
    assert keyrings.waits("a"), "that change was no help: it waits for the next"


def test_it_waits_until_there_is_a_keyring(trouble: KeyTrouble, keyring: Path) -> None:
    keyrings = settled(Keyrings(Clock()), trouble)
    store(keyring, SERIAL, SECRET)
    assert not keyrings.waits("a")


def test_what_changes_while_the_key_is_open_is_not_missed(trouble: KeyTrouble, keyring: Path) -> None:
    keyrings = Keyrings(Clock())
    assert not keyrings.waits("a")
    store(keyring, SERIAL, SECRET)  # after it was read, before the trouble is noted
    keyrings.note("a", trouble)
    assert not keyrings.waits("a")
    store(keyring, SERIAL, bytes(32))
    keyrings.note("a", trouble)
    assert not keyrings.waits("a")


def test_a_wrong_long_term_key_waits_for_half_a_minute_or_a_change(keyring: Path) -> None:
    clock = Clock()
    keyrings = Keyrings(clock)
    store(keyring, SERIAL, SECRET)
    keyrings.note("a", WrongLongTermKey("x", str(keyring)))
    clock.sleep(WRONG_KEY_RETRY_S - 0.1)
    assert keyrings.waits("a")
    clock.sleep(0.1)
    assert not keyrings.waits("a")
    keyrings.note("a", WrongLongTermKey("x", str(keyring)))
    assert keyrings.waits("a")
    store(keyring, SERIAL, bytes(32))
    assert not keyrings.waits("a")


def test_other_keys_and_other_trouble_do_not_wait(trouble: KeyTrouble) -> None:
    keyrings = settled(Keyrings(Clock()), trouble)
    assert not keyrings.waits("b")
    assert not keyrings.note("b", KeyLost("b", "being read"))
    assert not keyrings.waits("b")
    keyrings.note("a", KeyLost("a", "being read"))
    assert not keyrings.waits("a")


def test_a_key_that_is_plugged_in_anew_is_looked_at_anew(trouble: KeyTrouble) -> None:
    keyrings = settled(Keyrings(Clock()), trouble)
    keyrings.forget_all_but({"a", "b"})
    assert keyrings.waits("a")
    keyrings.forget_all_but({"b"})
    assert not keyrings.waits("a")


# --- in the feeder


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path / "run")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage().split("\n")[0] for record in caplog.records
            if record.levelno >= logging.WARNING and "for 10 s" not in record.getMessage()]  # fmt: skip


def unpaired(rig: Rig, keyring: Path) -> ScriptedKey:
    key = rig.key(serial="a")
    key.start_trouble = NoLongTermKey(SERIAL, str(keyring))
    return key


def test_it_is_left_closed_and_reported_once(
    rig: Rig, keyring: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = unpaired(rig, keyring)
    rig.run(key, for_s=300.0)
    assert key.closed == 2, "one look, one more for a change meanwhile, and none after that"
    assert warnings(caplog) == [
        f"{keyring} has no long-term key for the Entropy Key {SERIAL}; waiting for a key"
    ]
    (found,) = rig.status.keys
    assert (found.serial, found.state) == ("a", "probe")
    assert found.reason == f"{keyring} has no long-term key for the Entropy Key {SERIAL}"


def test_another_key_serves_meanwhile(rig: Rig, keyring: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = unpaired(rig, keyring)
    rig.run(rig.key(*admitted(*used(30))), first)
    assert first.closed == 2
    assert len(rig.seeds) >= 3
    assert len([text for text in warnings(caplog) if "no long-term key" in text]) == 1


class Port:
    """Where one simulated key is plugged in: it can be opened by one at a time."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.firmware = SimulatedEntropyKey(
            long_term_key=bytes(32), master_key=SECRET, now_s=rig.clock(), rate_bytes_per_s=4000.0
        )
        self.open: SimulatedTransport | None = None
        self.opened = 0

    def transport(self) -> SimulatedTransport:
        assert self.open is None, "somebody else has it"
        self.opened += 1
        self.open = SimulatedTransport(self.firmware, clock=self.rig.clock, sleep=self.rig.clock.sleep)
        close = self.open.close

        def closed() -> None:
            self.open = None
            close()

        self.open.close = closed  # type: ignore[method-assign]
        return self.open


def test_pairing_needs_no_restart(rig: Rig, keyring: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    port = Port(rig)

    def open_key() -> EntropyKey:
        look_up: Callable[[str], bytes] = lambda serial: long_term_key(keyring, serial)  # noqa: E731
        return EntropyKey(port.transport(), look_up, min_entropy=0.5, clock=rig.clock)

    def pair() -> None:
        assert port.opened == 2
        transport = port.transport()
        pairing = Pairing(transport, clock=rig.clock)
        serial = pairing.identify()
        pairing.unlock(SECRET)
        store(keyring, serial, pairing.rekey())
        transport.close()

    rig.at(5.0, pair)
    rig.look = lambda: Look((Source("a", "entropykey", "", "here", 0.5, open_key),))
    rig.run(for_s=60.0)
    assert port.opened == 4, "two looks, the pairing, and the session"
    assert len(rig.seeds) > 2
    assert [key.serial for key in rig.status.keys] == [SERIAL]
    told = [record.getMessage().split("\n")[0] for record in caplog.records]
    assert told[0].endswith(f"has no long-term key for the Entropy Key {SERIAL}; waiting for a key")
    assert "session established" in told[1]
    assert os.stat(keyring).st_size > 0
