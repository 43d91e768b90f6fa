# SPDX-License-Identifier: LGPL-2.1-or-later
"""Of many definitions most need nothing: what is told by their text is what looking into them tells."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.conftest import NewGuest
from tests.lab.host import LabHost
from tests.lab.product import FOREIGN, OURS
from tests.lab.reconciled import NOTHING_ASKED, SETTINGS
from virtrng.cli.several import AT_ONCE
from virtrng.config import DomainSettings, Rate, Rule
from virtrng.domain import reconcile
from virtrng.domain.halves import Scope
from virtrng.domain.hypervisor import Hypervisor
from virtrng.domain.many import Enabler
from virtrng.domain.policy import Request

MANY = Scope(named=False)
WISH = "<v:guest xmlns:v='urn:virtrng:domain:1' device='on'{}/>"
ON, RATED = WISH.format(""), WISH.format(" bytes='4096' period='1000'")
OFF = ON.replace("'on'", "'off'")
NOVA = "<n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'/>"

MIXTURE = [
    ("q35", OURS, ON, 1),
    ("q35", OURS, ON, 3),
    ("pc", OURS, ON, 1),
    ("q35", OURS, RATED, 1),
    ("q35", OURS.replace("4096", "777"), ON, 1),
    ("q35", OURS, "", 1),
    ("q35", OURS, OFF, 1),
    ("q35", OURS + FOREIGN, ON, 1),
    ("q35", FOREIGN, ON, 1),
    ("q35", OURS, ON + NOVA, 1),
    ("q35", "", "", 1),
]


@pytest.mark.parametrize(
    "request_", [NOTHING_ASKED, Request(rate=Rate(9999)), Request(model="virtio"), Request(replace=True)]
)
@pytest.mark.parametrize("ruled", [False, True])
def test_it_does_what_looking_into_each_does(
    lab_host: LabHost, new_guest: NewGuest, request_: Request, *, ruled: bool
) -> None:
    made = [
        new_guest(machine=machine, extra_devices=devices, metadata=metadata, root_ports=ports)
        for machine, devices, metadata, ports in MIXTURE
    ]
    names = [guest.name for guest in made]
    rules = (Rule(match=names[1], rate=Rate(8888)), Rule(match="*", source="/dev/urandom")) if ruled else ()
    settings = DomainSettings(rules=rules) if ruled else SETTINGS
    with Hypervisor(lab_host.uri) as hypervisor:
        guests = [guest for guest in hypervisor.guests() if guest.name in names]
        assert len(guests) == len(names)
        enabler = Enabler(settings, request_)
        for _ in range(3):
            for guest in guests:
                before = guest.definition()
                expected = reconcile.enable(guest, settings, request_, MANY)
                if expected.changed:
                    continue
                assert enabler.enable(guest, MANY) == expected
                assert guest.definition() == before
        assert not any(enabler.enable(guest, MANY).changed for guest in guests)


def test_twins_are_not_looked_into(
    lab_host: LabHost, new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = [new_guest(extra_devices=OURS, metadata=ON) for _ in range(4)]
    looked: list[str] = []
    enable = reconcile.enable

    def counted(guest, *arguments, **options):  # type: ignore[no-untyped-def]
        looked.append(guest.name)
        return enable(guest, *arguments, **options)

    monkeypatch.setattr(reconcile, "enable", counted)
    with Hypervisor(lab_host.uri) as hypervisor:
        enabler = Enabler(SETTINGS, NOTHING_ASKED)
        outcomes = [enabler.enable(hypervisor.guest(twin.name), MANY) for twin in twins]
    assert looked == [twins[0].name]
    assert [outcome.name for outcome in outcomes] == [twin.name for twin in twins]
    assert {outcome.config for outcome in outcomes} == {"already"}


def test_it_may_be_asked_by_several_threads(lab_host: LabHost, new_guest: NewGuest) -> None:
    made = [
        new_guest(machine=machine, extra_devices=devices, metadata=metadata)
        for machine, devices, metadata, _ in MIXTURE * 3
    ]
    names = {guest.name for guest in made}
    with Hypervisor(lab_host.uri) as hypervisor:
        guests = [guest for guest in hypervisor.guests() if guest.name in names]
        enabler = Enabler(SETTINGS, NOTHING_ASKED)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in range(2):
                assert [
                    outcome.name for outcome in pool.map(lambda one: enabler.enable(one, MANY), guests)
                ] == [guest.name for guest in guests]
            again = [*pool.map(lambda one: enabler.enable(one, MANY), guests)]
        assert again == [reconcile.enable(guest, SETTINGS, NOTHING_ASKED, MANY) for guest in guests]
    assert not any(outcome.changed for outcome in again)
