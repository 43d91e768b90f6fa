# SPDX-License-Identifier: LGPL-2.1-or-later
"""What changes of a guest that arrives: what its devices draw from, and nothing that libvirt compares."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from tests.unit.domain.hook_rig import FOREIGN, OURS, WITH_FOREIGN, domain
from virtrng.config import DomainSettings, Rate
from virtrng.domain import arrival, rng, xml
from virtrng.domain.rng import RngDevice

HERE = DomainSettings(source="/dev/urandom", rate=Rate(7, 9))
EGD = (
    "<rng model='virtio'><backend model='egd' type='unix'>"
    "<source mode='connect' path='/nonexistent'/></backend></rng>"
)


def after(content: bytes, gone: tuple[str, ...] = ()) -> tuple[bool, list[RngDevice]]:
    """Return whether an arrival changed, on a host without these files, and its devices then."""
    root = xml.parse(content)
    changed = arrival.retarget(root, HERE, lambda path: path in gone)
    return changed, [rng.from_element(element) for element in root.iterfind("devices/rng")]


def test_ours_becomes_this_hosts() -> None:
    changed, (foreign, ours) = after(domain(FOREIGN, OURS))
    assert changed
    assert (ours.source, ours.rate) == ("/dev/urandom", Rate(7, 9))
    assert foreign.source == "/dev/hwrng"


def test_a_foreign_one_whose_source_is_here_is_left_alone() -> None:
    changed, (foreign,) = after(WITH_FOREIGN)
    assert not changed
    assert foreign.source == "/dev/hwrng"


def test_one_whose_source_is_not_gets_this_hosts_and_keeps_its_rate() -> None:
    limited = FOREIGN.replace("<backend", "<rate bytes='55'/>\n      <backend")
    changed, (first, second) = after(domain(FOREIGN, limited), gone=("/dev/hwrng",))
    assert changed
    assert (first.source, first.rate, first.alias) == ("/dev/urandom", None, "rng0")
    assert (second.source, second.rate) == ("/dev/urandom", Rate(55, 1000))


@pytest.mark.parametrize(
    "device", [EGD, "<rng model='virtio'><backend model='builtin'/></rng>",
               "<rng model='virtio'><backend model='random'>relative</backend></rng>"],
)  # fmt: skip
def test_what_draws_from_no_file_of_the_host_is_left_alone(device: str) -> None:
    content = domain(device)
    root = xml.parse(content)
    assert not arrival.retarget(root, HERE, lambda _: True)
    assert xml.serialise(root).strip() == xml.serialise(xml.parse(content)).strip()


def test_a_guest_that_policy_can_give_nothing_is_left_alone() -> None:
    content = domain(OURS).replace(b"type='kvm'", b"type='xen'")
    assert after(content) == (False, after(content)[1])


def test_missing_is_what_is_surely_not_there(open_path: Path) -> None:
    assert arrival.is_missing(str(open_path / "none"))
    (open_path / "file").write_text("")
    assert arrival.is_missing(str(open_path / "file" / "below"))
    assert not arrival.is_missing(str(open_path / "file"))
    os.symlink(open_path / "loop", open_path / "loop")
    assert not arrival.is_missing(str(open_path / "loop")), "it cannot be told"
    assert not arrival.is_missing("/dev/\0")


DEVICES = st.lists(
    st.sampled_from([OURS, FOREIGN, EGD, OURS.replace("<backend", "<driver packed='on'/><backend")]),
    max_size=4,
)


@settings(max_examples=scaled(40))
@given(DEVICES, st.sampled_from([(), ("/dev/hwrng",), ("/dev/hwrng", "/nonexistent")]))
def test_what_libvirt_compares_stays(devices: list[str], gone: tuple[str, ...]) -> None:
    content = domain(*devices)
    root = xml.parse(content)
    changed = arrival.retarget(root, HERE, lambda path: path in gone)
    text = xml.serialise(root)
    assert not arrival.retarget(xml.parse(text), HERE, lambda path: path in gone)
    assert compared(xml.parse(text)) == compared(xml.parse(content))
    assert changed or without_rngs(root) == without_rngs(xml.parse(content))
    assert without_rngs(xml.parse(text)) == without_rngs(xml.parse(content))


def compared(root: xml.Element) -> list[object]:
    """Return of each device what virDomainRNGDefCheckABIStability looks at, in order, and more."""
    found: list[object] = []
    for element in root.iterfind("devices/rng"):
        parts = ("alias", "address", "driver")
        kept = [(part.tag, dict(part.attrib)) for part in element if part.tag in parts]
        found.append((dict(element.attrib), kept))
    return found


def without_rngs(root: xml.Element) -> str:
    """Return the rest of a definition: secrets and all."""
    for element in root.findall("devices/rng"):
        for part in list(element):
            element.remove(part)
        element.text = None
    return xml.text_of(root)
