# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the watcher does about one guest, by libvirt's own test driver, whose guests do not run here."""

import re
from collections.abc import Callable, Iterator
from itertools import chain, count

import pytest

from virtrng.config import DomainSettings, Rule
from virtrng.domain.hypervisor import Guest, Hypervisor
from virtrng.domain.steward import Steward
from virtrng.errors import Refused

NOVA = "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'/>"
WISH = "<v:guest xmlns:v='urn:virtrng:domain:1' device='{}'/>"
FOREIGN = "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
PC = "<os><type machine='pc'>hvm</type></os>"
ALL, NEW, OFF = (DomainSettings(manage=word) for word in ("all", "new", "off"))


class Kvm(Guest):
    """A guest of the test driver, which can do what it cannot: be of KVM, and take a device."""

    def definition(self) -> bytes:
        return super().definition().replace(b"<domain type='test'>", b"<domain type='kvm'>")

    def attach(self, device: str, *, live: bool) -> None:
        assert not live
        self.define(super().definition().decode().replace("</devices>", f"{device}</devices>"))

    def define(self, domain: str) -> None:
        self._domain.connect().defineXML(domain)

    @property
    def text(self) -> str:
        return super().definition().decode()


MakeGuest = Callable[..., Kvm]


@pytest.fixture
def make() -> Iterator[MakeGuest]:
    """Define a guest that does not run."""
    with Hypervisor("test:///default") as hypervisor:

        def make(devices: str = "", metadata: str = "", os: str = PC) -> Kvm:
            made = hypervisor._connection.defineXML(
                f"<domain type='test'><name>web</name><memory>1024</memory>{os}"
                f"<metadata>{metadata}</metadata><devices>{devices}</devices></domain>"
            )
            return Kvm(made)

        yield make


def without_device(text: str) -> str:
    return re.sub("<rng.*</rng>", "", text, flags=re.DOTALL)


def test_it_gives_what_is_missing_and_then_nothing(make: MakeGuest) -> None:
    guest, steward = make(), Steward(ALL)
    assert "ua-virtrng0" in steward.difference(guest)
    assert "<rng" not in guest.text
    looked = steward.look_after(guest)
    assert (looked.outcome.changed, looked.outcome.config, looked.bare) == (True, "attached", False)
    assert "<alias name='ua-virtrng0'/>" in guest.text
    assert "<virtrng:guest" in guest.text
    assert steward.difference(guest) == ""
    looked = steward.look_after(guest)
    assert (looked.outcome.changed, looked.outcome.config, looked.bare) == (False, "already", False)


@pytest.mark.parametrize(
    ("settings", "metadata", "word"),
    [
        (NEW, "", "before"), (OFF, "", "off"), (ALL, NOVA, "managed"), (NEW, NOVA, "managed"),
        (ALL, WISH.format("off"), "not-wanted"), (ALL, NOVA + WISH.format("on"), "managed"),
        (DomainSettings(manage="all", rules=(Rule(match="w*", manage="off"),)), "", "off"),
    ],
)  # fmt: skip
def test_whom_it_leaves_alone(make: MakeGuest, settings: DomainSettings, metadata: str, word: str) -> None:
    guest = make(metadata=metadata)
    before, steward = guest.text, Steward(settings, {guest.uuid})
    for _ in range(2):
        looked = steward.look_after(guest)
        outcome = looked.outcome
        assert (outcome.changed, outcome.config, outcome.live, looked.bare) == (False, word, word, True)
    assert steward.difference(guest) == ""
    assert guest.text == before


@pytest.mark.parametrize("settings", [NEW, OFF])
def test_one_that_wants_it_is_looked_after_whatever_manage_says(
    make: MakeGuest, settings: DomainSettings
) -> None:
    guest = make(metadata=WISH.format("on"))
    assert Steward(settings, {guest.uuid}).look_after(guest).outcome.config == "attached"


def test_new_settings_and_another_memory_count_from_the_next_look(make: MakeGuest) -> None:
    guest, steward = make(), Steward(NEW)
    steward.remembered = {guest.uuid}
    assert steward.look_after(guest).outcome.config == "before"
    steward.settings = ALL
    assert steward.look_after(guest).outcome.config == "attached"


def test_a_device_of_another(make: MakeGuest) -> None:
    guest, steward = make(devices=FOREIGN), Steward(ALL)
    before = guest.text
    looked = steward.look_after(guest)
    assert (looked.outcome.changed, looked.outcome.config, looked.bare) == (False, "foreign", False)
    assert guest.text == before
    steward.settings = DomainSettings(manage="all", foreign="replace")
    assert "/dev/urandom" in steward.difference(guest)


def test_one_that_can_have_none(make: MakeGuest) -> None:
    guest = make(os=PC.replace("'pc'", "'isapc'"))
    for act in (Steward(ALL).look_after, Steward(ALL).difference):
        with pytest.raises(Refused, match="its machine has no bus for a virtio device"):
            act(guest)


def test_taken_away_three_times_within_an_hour_it_is_left_alone(make: MakeGuest) -> None:
    times_s = chain((0.0, 1000.0, 2000.0, 3000.0), count(1e6))
    guest, steward = make(), Steward(ALL, now_s=lambda: next(times_s))
    for _ in range(3):
        assert steward.look_after(guest).outcome.config == "attached"
        guest.define(without_device(guest.text))
    for _ in range(2):
        looked = steward.look_after(guest)
        assert (looked.outcome.config, looked.outcome.changed, looked.bare) == ("contested", False, True)
    assert "removed 3 times within an hour" in looked.outcome.why
    assert "'virtrng enable web'" in looked.outcome.why
    assert steward.difference(guest) == ""
    assert Steward(ALL).look_after(guest).outcome.config == "attached"  # as its owner may
    assert steward.look_after(guest).outcome.config == "already"
    guest.define(without_device(guest.text))
    assert steward.look_after(guest).outcome.config == "attached"


def test_its_owners_word_ends_the_contest(make: MakeGuest) -> None:
    guest, steward = make(), Steward(ALL)
    for _ in range(3):
        assert steward.look_after(guest).outcome.config == "attached"
        guest.define(without_device(guest.text))
    guest.record("<guest device='off'/>", live=False)
    assert steward.look_after(guest).outcome.config == "not-wanted"
    guest.record("<guest device='on'/>", live=False)
    assert steward.look_after(guest).outcome.config == "attached"


def test_what_may_not_touch_qemu_is_done_to_a_definition_all_the_same(make: MakeGuest) -> None:
    looked = Steward(ALL).look_after(make(), live=False)
    assert (looked.outcome.config, looked.rest) == ("attached", False)
