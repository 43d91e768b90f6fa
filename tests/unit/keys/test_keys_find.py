# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which devices are keys, and what KEY means."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from virtrng.errors import ExitCode, NoKey, NoSuchKey, NoSuchKind
from virtrng.keys import KEYS, find
from virtrng.transport.scan import UsbDevice

MOUSE = UsbDevice(0x046D, 0xC077, "", "Logitech", "USB Optical Mouse", 1, 2, "/dev/bus/usb/001/002")


def plugged_in(serial: str, number: int = 0) -> UsbDevice:
    usb = KEYS[number].usb[0]
    return replace(MOUSE, vendor_id=usb.vendor_id, product_id=usb.product_id, serial=serial)


def test_keys_are_told_by_their_ids_alone() -> None:
    key = plugged_in("a/b")
    found = find.among([MOUSE, key, replace(key, product_id=2), replace(key, vendor_id=1)])
    assert [(one.kind, one.device) for one in found] == [(KEYS[0], key)]
    assert [one.name for one in found] == ["entropykey:serial=a/b"]


@pytest.mark.parametrize("number", range(len(KEYS)))
def test_every_product_of_the_registry_is_found(number: int) -> None:
    for usb in KEYS[number].usb:
        device = replace(MOUSE, vendor_id=usb.vendor_id, product_id=usb.product_id)
        assert [one.kind for one in find.among([device])] == [KEYS[number]]


@pytest.mark.parametrize("wanted", ["c+d", "entropykey:serial=c+d"])
def test_a_key_is_named_by_serial_or_by_kind_and_serial(wanted: str) -> None:
    found = find.among([plugged_in("a/b"), plugged_in("c+d")])
    assert find.named(found, wanted) is found[1]


@pytest.mark.parametrize("wanted", ["c", "c+d ", "C+D", "entropykey", "entropykey:c+d", "serial=c+d"])
def test_nothing_but_the_whole_name_will_do(wanted: str) -> None:
    found = find.among([plugged_in("a/b"), plugged_in("c+d")])
    with pytest.raises(NoSuchKey) as caught:
        find.named(found, wanted)
    assert str(caught.value) == f"no key matches '{wanted}'"
    assert caught.value.remedy == "present: entropykey:serial=a/b, entropykey:serial=c+d"
    assert caught.value.exit_code is ExitCode.NO_KEY


def test_with_none_there_is_none_to_name() -> None:
    with pytest.raises(NoKey):
        find.named([], "a/b")
    with pytest.raises(NoKey) as caught:
        find.some([])
    assert str(caught.value) == "no supported key is plugged in"
    assert caught.value.exit_code is ExitCode.NO_KEY


# --- what KEY means


@pytest.mark.parametrize(
    "serial",
    ["AB/DEF+GHIJKLMNO", "/BCDEF+GHIJKLMNO", "a/b", "c+d", "+", "entropykey", "entropykey:c+d", "x:y/z",
     "./x", "", "A=B", "entropykey:", "/dev/ttyACM0"],
)  # fmt: skip
def test_a_serial_may_look_like_a_path(serial: str) -> None:
    assert find.meant_by(serial) == find.Serial(None, serial)


@pytest.mark.parametrize(
    "serial", ["AB/DEF+GHIJKLMNO", "/BCD", "./x", "entropykey:/dev/ttyACM0", "a:serial=b"]
)
def test_a_kind_and_a_serial(serial: str) -> None:
    text = f"entropykey:serial={serial}"
    assert find.meant_by(text) == find.Serial(KEYS[0], serial)
    assert find.named(find.among([plugged_in(serial)]), text).device.serial == serial


@pytest.mark.parametrize(
    "path", ["/dev/ttyACM0", "/tmp/link", "./link", "../link", "/", "/a:serial=b", "/a\nb"]
)
def test_a_kind_and_a_path(path: str) -> None:
    assert find.meant_by(f"entropykey:{path}") == find.At(KEYS[0], Path(path), f"entropykey:{path}")


@pytest.mark.parametrize("text", ["onerng:serial=c+d", "onerng:/dev/ttyACM0", "EntropyKey:./link"])
def test_a_kind_that_does_not_exist(text: str) -> None:
    for look in (find.meant_by, lambda text: find.named([], text)):
        with pytest.raises(NoSuchKind) as caught:
            look(text)
        assert str(caught.value) == f"no kind of keys is called '{text.split(':')[0]}'"
        assert caught.value.remedy == "there are: entropykey"
        assert caught.value.exit_code is ExitCode.USAGE


def test_a_serial_of_another_kind_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(KEYS[0], name="other", usb=())
    monkeypatch.setattr(find, "kind_named", {"other": other}.get)
    with pytest.raises(NoSuchKey, match="no key matches 'other:serial=a/b'"):
        find.named(find.among([plugged_in("a/b")]), "other:serial=a/b")


def test_a_path_is_none_of_those_that_are_plugged_in() -> None:
    with pytest.raises(NoSuchKey):
        find.named(find.among([plugged_in("/dev/x")]), "entropykey:/dev/x")


@settings(derandomize=True, max_examples=scaled(200))
@given(st.text(st.sampled_from("abentropykey:serial=/.+AB\n"), max_size=12) | st.text(max_size=8))
def test_any_text_means_something_or_names_no_kind(text: str) -> None:
    try:
        meant = find.meant_by(text)
    except NoSuchKind as trouble:
        assert text.startswith(f"{trouble.kind}:")  # noqa: PT017  most are something
        return
    assert meant.name == text if isinstance(meant, find.At) else text.endswith(meant.serial)


@settings(derandomize=True, max_examples=scaled(100))
@given(st.text(min_size=1))
def test_every_serial_can_be_named(serial: str) -> None:
    (found,) = find.among([plugged_in(serial)])
    assert find.named([found], found.name) is found
