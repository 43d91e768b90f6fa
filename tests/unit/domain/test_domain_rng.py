# SPDX-License-Identifier: LGPL-2.1-or-later
"""RngDevice to <rng> and back."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.scale import scaled
from virtrng.config import Rate
from virtrng.domain import rng, xml
from virtrng.domain.rng import ALIAS, Address, RngDevice


def device(text: str) -> RngDevice:
    return rng.from_element(etree.fromstring(text))


OURS = RngDevice(source="/dev/random", rate=Rate(4096, 1000), alias=ALIAS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<rng model='virtio'><backend model='random'/></rng>", RngDevice("/dev/random", None)),
        ("<rng model='virtio'><backend model='random'> /dev/urandom\n</backend></rng>",
         RngDevice("/dev/urandom", None)),
        ("<rng model='virtio'><rate bytes='5'/><backend model='builtin'/></rng>",
         RngDevice(None, Rate(5, 1000), backend="builtin")),
        ("<rng model='virtio-transitional'><backend model='egd'><source path='/x'/></backend></rng>",
         RngDevice(None, None, model="virtio-transitional", backend="egd")),
        ("<rng/>", RngDevice(None, None, model="", backend="")),
        ("<rng model='virtio'><rate bytes='x' period='y'/></rng>", RngDevice(None, None, backend="")),
        ("<rng model='virtio'><rate bytes='0'/></rng>", RngDevice(None, None, backend="")),
        ("<rng model='virtio'><rate period='7'/></rng>", RngDevice(None, None, backend="")),
        ("<rng model='virtio'><rate bytes='-4'/></rng>", RngDevice(None, None, backend="")),
        ("<rng model='virtio'><alias/><address type='ccw'/></rng>",
         RngDevice(None, None, backend="", address=Address((("type", "ccw"),)))),
    ],
)  # fmt: skip
def test_reading(text: str, expected: RngDevice) -> None:
    assert device(text) == expected


def test_writing() -> None:
    full = RngDevice("/dev/urandom", Rate(1, 2), alias=ALIAS, address=Address.on_root_complex(0x18))
    assert xml.text_of(rng.to_element(full)) == (
        '<rng model="virtio"><rate bytes="1" period="2"/><backend model="random">/dev/urandom</backend>'
        '<alias name="ua-virtrng0"/>'
        '<address type="pci" domain="0x0000" bus="0x00" slot="0x18" function="0x0"/></rng>'
    )
    assert xml.text_of(rng.to_element(RngDevice(None, None, backend="builtin"))) == (
        '<rng model="virtio"><backend model="builtin"/></rng>'
    )


@settings(derandomize=True, max_examples=scaled(100))
@given(
    st.sampled_from(["/dev/random", "/dev/urandom", "/dev/hwrng"]),
    st.none() | st.builds(Rate, st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1)),
    st.sampled_from(["virtio", "virtio-non-transitional"]),
    st.sampled_from([None, ALIAS, "ua-other"]),
    st.none() | st.builds(Address.on_root_complex, st.integers(0, 31)),
)
def test_what_is_written_is_read(
    source: str, rate: Rate | None, model: str, alias: str | None, address: Address | None
) -> None:
    made = RngDevice(source, rate, model=model, alias=alias, address=address)
    assert rng.from_element(rng.to_element(made)) == made


@pytest.mark.parametrize(
    ("model", "alias", "virtio", "ours"),
    [
        ("virtio", ALIAS, True, True),
        ("virtio-transitional", None, True, False),
        ("virtio-non-transitional", "ua-virtrng1", True, False),
        ("", ALIAS, False, True),
        ("other", "virtrng0", False, False),
    ],
)
def test_whose_it_is(model: str, alias: str | None, *, virtio: bool, ours: bool) -> None:
    found = RngDevice("/dev/random", None, model=model, alias=alias)
    assert (found.virtio, found.ours) == (virtio, ours)


def test_in_words() -> None:
    assert str(OURS) == "/dev/random, 4096 B/1000 ms"
    assert str(RngDevice(None, None, backend="egd")) == "egd, unlimited"


ELEMENT = """<rng model='virtio'>
  <rate bytes='1' period='2'/>
  <backend model='random'>/dev/urandom</backend>
  <driver iommu='on'/>
  <alias name='ua-virtrng0'/>
  <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/>
</rng>"""


def test_retarget_changes_backend_and_rate_alone() -> None:
    element = etree.fromstring(ELEMENT)
    assert rng.retarget(element, OURS) is True
    expected = ELEMENT.replace("'1' period='2'", "'4096' period='1000'").replace(
        "/dev/urandom", "/dev/random"
    )
    assert xml.text_of(element) == xml.text_of(etree.fromstring(expected))
    assert rng.retarget(element, OURS) is False
    assert xml.text_of(element) == xml.text_of(etree.fromstring(expected))


def test_retarget_takes_and_gives_a_rate() -> None:
    element = etree.fromstring(ELEMENT)
    unlimited = RngDevice("/dev/random", None, alias=ALIAS)
    assert rng.retarget(element, unlimited)
    assert element.find("rate") is None
    assert rng.retarget(element, OURS)
    assert rng.from_element(element).rate == Rate(4096, 1000)
    assert [one.tag for one in element].count("backend") == 1


def test_retarget_replaces_another_backend_whole() -> None:
    element = etree.fromstring(
        "<rng model='virtio'><backend model='egd' type='unix'><source path='/x'/></backend></rng>"
    )
    assert rng.retarget(element, OURS)
    assert xml.text_of(element) == (
        '<rng model="virtio"><rate bytes="4096" period="1000"/>'
        '<backend model="random">/dev/random</backend></rng>'
    )


def test_retarget_keeps_the_layout() -> None:
    element = etree.fromstring(ELEMENT.replace("  <rate bytes='1' period='2'/>\n", ""))
    assert rng.retarget(element, OURS)
    expected = ELEMENT.replace("'1' period='2'", "'4096' period='1000'").replace("urandom", "random")
    assert xml.text_of(element) == xml.text_of(etree.fromstring(expected))


def test_taking_over_leaves_what_it_does_not_tell_of() -> None:
    foreign = ELEMENT.replace("  <alias name='ua-virtrng0'/>\n", "  <!-- theirs -->\n")
    element = etree.fromstring(foreign)
    assert rng.take_over(element, replace(OURS, model="virtio-transitional")) is True
    expected = (
        foreign.replace("'virtio'", "'virtio-transitional'")
        .replace("'1' period='2'", "'4096' period='1000'")
        .replace("urandom", "random")
        .replace("  <address", "  <alias name='ua-virtrng0'/>\n  <address")
    )
    assert xml.text_of(element) == xml.text_of(etree.fromstring(expected))
    assert rng.take_over(element, replace(OURS, model="virtio-transitional")) is False


def test_taking_over_replaces_an_alias_and_adds_one_at_the_end() -> None:
    element = etree.fromstring(
        "<rng model='virtio'>\n <backend model='builtin'/>\n <alias name='ua-x'/>\n</rng>"
    )
    assert rng.take_over(element, OURS)
    assert rng.from_element(element) == OURS
    assert [one.tag for one in element] == ["rate", "backend", "alias"]
    bare = etree.fromstring("<rng model='virtio'><backend model='builtin'/></rng>")
    assert rng.take_over(bare, OURS)
    assert xml.text_of(bare) == xml.text_of(rng.to_element(OURS))
