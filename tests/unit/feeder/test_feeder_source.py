# SPDX-License-Identifier: LGPL-2.1-or-later
"""From what is plugged in to an open driver."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.support import in_child
from tests.unit.transport.served import KEYRING_LINE, listening, on_a_pty, to_the_client_of
from virtrng.config import KeySettings
from virtrng.errors import KeyLost, NoKey, NoKeyAt, NoLongTermKey, NoSuchKey, NoSuchKind
from virtrng.feeder import source
from virtrng.feeder.source import Look
from virtrng.keys import KEYS
from virtrng.keys.entropykey import EntropyKey
from virtrng.sim.entropykey import SERIAL, simulated
from virtrng.transport import scan
from virtrng.transport.scan import UsbDevice

KEY = UsbDevice(0x20DF, 1, SERIAL, "Simtec Electronics", "Entropy Key", 1, 2, "/dev/bus/usb/001/002")
OTHER = replace(KEY, serial="OTHER", address=3)


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    def plug_in(*devices: UsbDevice) -> None:
        monkeypatch.setattr(scan, "usb_devices", lambda: list(devices))

    return plug_in


def test_with_none_it_says_so(plug_in: Any) -> None:
    plug_in()
    with pytest.raises(NoKey):
        list(source.plugged_in((), Path("k"), None))
    with pytest.raises(NoKey):
        list(source.plugged_in((), Path("k"), SERIAL))


def test_all_of_them_or_the_wanted_one(plug_in: Any) -> None:
    plug_in(KEY, OTHER)
    assert [one.name for one in source.plugged_in((), Path("k"), None)] == [
        f"entropykey:serial={SERIAL}",
        "entropykey:serial=OTHER",
    ]
    assert [one.name for one in source.plugged_in((), Path("k"), "OTHER")] == ["entropykey:serial=OTHER"]
    with pytest.raises(NoSuchKey):
        list(source.plugged_in((), Path("k"), "none"))


def test_the_configuration_tunes_its_key(plug_in: Any) -> None:
    plug_in(KEY, OTHER)
    settings = (KeySettings("OTHER", 0.25), KeySettings(SERIAL), KeySettings("absent", 1.0))
    found = list(source.plugged_in(settings, Path("k"), None))
    assert [one.min_entropy for one in found] == [KEYS[0].min_entropy, 0.25]


class Bus:
    """Hands out simulated keys in the place of those on USB."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, UsbDevice]] = []

    def __call__(self, key: str, device: UsbDevice) -> Any:
        self.opened.append((key, device))
        return simulated()[0]


def test_opening_touches_it_for_the_first_time(
    plug_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = Bus()
    monkeypatch.setattr(source, "UsbTransport", bus)
    plug_in(KEY)
    (chosen,) = source.plugged_in((), tmp_path / "keyring", None)
    assert bus.opened == []
    key = chosen.open()
    assert bus.opened == [(f"entropykey:serial={SERIAL}", KEY)]
    with pytest.raises(NoLongTermKey, match=f"{tmp_path}/keyring has no long-term key"):
        key.start()
    key.close()


@pytest.mark.parametrize("name", sorted(source.SIMULATED))
def test_simulated_keys_are_new_each_time_and_never_credited(name: str) -> None:
    chosen = source.simulated(name)
    assert (chosen.kind, chosen.name) == (name, f"simulated {name}")
    first, second = chosen.open(), chosen.open()
    for key in (first, second):
        assert isinstance(key, EntropyKey)
        key.start()
        assert key.simulated
        assert key.serial == SERIAL
        key.close()
        with pytest.raises(KeyLost):
            key.read(1)
    assert first is not second


@pytest.mark.parametrize("kind", KEYS, ids=lambda kind: str(kind.name))
def test_every_kind_can_be_simulated(kind: Any) -> None:
    assert kind.name in source.SIMULATED


def test_a_keyring_that_may_not_be_read(plug_in: Any, tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    keyring.write_text("")
    keyring.chmod(0)
    (opened,) = [KEYS[0].open(simulated()[0], keyring, 0.5)]
    assert in_child(opened.start, nobody=True).startswith("BadKeyring: ")


# --- keys that are named by their path


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    file = tmp_path / "keyring"
    file.write_text(KEYRING_LINE)
    file.chmod(0o600)
    return file


def test_on_a_tty_it_needs_no_usb(plug_in: Any, tmp_path: Path, keyring: Path) -> None:
    plug_in()
    name = f"entropykey:{tmp_path}/link"
    with pytest.raises(NoKeyAt, match=f"^no key at {tmp_path}/link: nothing is there$"):
        list(source.plugged_in((), keyring, name))
    with on_a_pty(tmp_path / "link") as served:
        (chosen,) = source.plugged_in((), keyring, name)
        assert (chosen.name, chosen.kind, chosen.min_entropy) == (name, "entropykey", KEYS[0].min_entropy)
        key = chosen.open()
        key.start()
        noise = key.read(10_000)
        assert noise is not None
        assert noise.key == name
        assert noise.data in served.encrypted
        assert (key.serial, key.simulated) == (SERIAL, True)
        key.close()


def test_on_a_socket(plug_in: Any, tmp_path: Path, keyring: Path) -> None:
    plug_in(KEY)
    socket = tmp_path / "socket"
    with listening(socket) as listener:
        (chosen,) = source.plugged_in((), keyring, f"entropykey:{socket}")
        key = chosen.open()
        with to_the_client_of(listener, socket):
            key.start()
            assert key.read(10_000)
            assert not key.simulated
        key.close()


def test_of_a_key_whose_serial_is_not_known_yet_the_least_is_claimed(tmp_path: Path) -> None:
    def claimed(*settings: KeySettings) -> float:
        (chosen,) = source.plugged_in(settings, Path("k"), f"entropykey:{tmp_path}/socket")
        return chosen.min_entropy

    default = KEYS[0].min_entropy
    with listening(tmp_path / "socket"):
        assert claimed() == default
        assert claimed(KeySettings("x"), KeySettings("y", default / 2)) == default / 2
        assert claimed(KeySettings("x", default * 2)) == default


def test_a_kind_that_does_not_exist_is_no_trouble_of_a_key(plug_in: Any) -> None:
    plug_in(KEY)
    with pytest.raises(NoSuchKind):
        list(source.plugged_in((), Path("k"), "nonesuch:/dev/null"))


def test_a_path_to_something_else(tmp_path: Path) -> None:
    with pytest.raises(NoKeyAt, match="it is neither a tty nor a socket"):
        list(source.plugged_in((), Path("k"), f"entropykey:{tmp_path}"))


# --- one look


def names(look: Look) -> list[str]:
    return [one.name for one in look.sources]


def test_a_look_finds_all_or_the_wanted_ones(plug_in: Any) -> None:
    plug_in(KEY, OTHER)
    assert names(source.look((), Path("k"), [])) == [f"entropykey:serial={SERIAL}", "entropykey:serial=OTHER"]
    assert names(source.look((), Path("k"), ["OTHER", SERIAL, "entropykey:serial=OTHER"])) == [
        "entropykey:serial=OTHER",
        f"entropykey:serial={SERIAL}",
    ]


def test_a_look_tells_what_is_missing_and_goes_on(plug_in: Any, tmp_path: Path) -> None:
    plug_in(KEY)
    found = source.look((), Path("k"), ["none", f"entropykey:{tmp_path}/none", SERIAL])
    assert names(found) == [f"entropykey:serial={SERIAL}"]
    assert [type(one) for one in found.missing] == [NoSuchKey, NoKeyAt]
    plug_in()
    assert [type(one) for one in source.look((), Path("k"), []).missing] == [NoKey]


def test_where_a_key_is_tells_one_plugging_in_from_the_next(plug_in: Any) -> None:
    plug_in(KEY)
    first = source.look((), Path("k"), [])
    assert (first.sources[0].serial, first.sources[0].place) == (SERIAL, "/dev/bus/usb/001/002")
    assert first.same_as(source.look((), Path("k"), []))
    assert not first.same_as(None)
    plug_in(replace(KEY, address=3, node="/dev/bus/usb/001/003"))
    assert not first.same_as(source.look((), Path("k"), []))
    plug_in()
    none = source.look((), Path("k"), [])
    assert not first.same_as(none)
    assert none.same_as(source.look((), Path("k"), []))
    assert not none.same_as(Look(()))
