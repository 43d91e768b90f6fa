# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is to be done to each half of a guest, by libvirt's own test driver and documents of ours."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from virtrng.config import DomainSettings, Rate
from virtrng.domain import facts, plan, preflight, reconcile, rng, transform, xml
from virtrng.domain.facts import Wish
from virtrng.domain.halves import BOTH, Half, Scope
from virtrng.domain.hypervisor import Guest, Hypervisor
from virtrng.domain.plan import Plan
from virtrng.domain.policy import Request
from virtrng.domain.rng import ALIAS, RngDevice
from virtrng.domain.standing import Standing
from virtrng.errors import Refused

WANTED = RngDevice("/dev/random", Rate(4096), alias=ALIAS)
WISH = Wish(wanted=True)
Q35 = (
    "<domain type='kvm' id='1'><os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>"
    "<features><acpi/></features><metadata>{}</metadata><devices>"
    "<controller type='pci' index='0' model='pcie-root'/>{}</devices></domain>"
)
PORT = "<controller type='pci' index='{0}' model='pcie-root-port'/>"
I440FX = Q35.replace("pc-q35-7.2", "pc").replace("pcie-root", "pci-root")
FOREIGN = (
    "<rng model='virtio'><backend model='random'>/dev/urandom</backend><alias name='rng0'/>"
    "<address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></rng>"
)
EGD = "<rng model='virtio'><backend model='egd'/></rng>"
OURS = xml.text_of(rng.to_element(replace(WANTED, address=rng.Address.on_root_complex(0x19))))
ON_A_PORT = OURS.replace("0x19", "0x00").replace('bus="0x00"', 'bus="0x02"')

MakeHalf = Callable[..., Half]


@pytest.fixture
def guest() -> Iterator[Guest]:
    """A guest that runs and has a definition; no plan asks it for more."""
    with Hypervisor("test:///default") as hypervisor:
        found = hypervisor.guest("test")
        found._standing = Standing(active=True, persistent=True, saved=False, snapshots=False)
        yield found


@pytest.fixture
def make(guest: Guest) -> MakeHalf:
    """Make a half of it out of a document."""

    def make(
        devices: str, *, live: bool = True, ports: int = 0, machine: str = Q35, metadata: str = ""
    ) -> Half:
        all_ports = "".join(PORT.format(n) for n in range(1, ports + 1))
        root = xml.parse(machine.format(metadata, all_ports + devices).encode())
        return Half(guest, live, root, facts.of(root), transform.kept(root))

    return make


def enable(half: Half, *, replaces: bool = False, scope: Scope = BOTH, wanted: RngDevice = WANTED) -> Plan:
    return plan.enable(half, wanted, WISH, scope, replaces=replaces)


def counts(one: Plan) -> tuple[str, int, int]:
    return one.word, len(one.remove), len(one.add)


@pytest.mark.parametrize(
    ("devices", "ports", "replaces", "expected", "obstacle"),
    [
        ("", 1, False, ("attached", 0, 1), None),
        ("", 0, False, ("next-start", 0, 0), preflight.NO_PORT),
        (ON_A_PORT, 2, False, ("already", 0, 0), None),
        (FOREIGN, 1, False, ("foreign", 0, 0), None),
        (FOREIGN, 1, True, ("replaced", 1, 1), None),
        (
            FOREIGN.replace("bus='0x01'", "bus='0x00'"),
            1,
            True,
            ("next-start", 0, 0),
            preflight.ON_ROOT_COMPLEX,
        ),
        (EGD, 1, True, ("next-start", 0, 0), "QEMU may not survive the loss of its egd device"),
        (ON_A_PORT + FOREIGN, 2, False, ("already", 0, 0), None),
        (ON_A_PORT + FOREIGN, 2, True, ("replaced", 1, 0), None),
        (ON_A_PORT.replace("4096", "777"), 2, False, ("attached", 1, 1), None),
        (ON_A_PORT.replace("4096", "777") + FOREIGN, 2, True, ("attached", 2, 1), None),
        (OURS.replace("4096", "777"), 1, False, ("next-start", 0, 0), preflight.ON_ROOT_COMPLEX),
    ],
)
def test_a_running_guest_on_pcie(
    make: MakeHalf,
    devices: str,
    ports: int,
    expected: tuple[str, int, int],
    obstacle: str | None,
    *,
    replaces: bool,
) -> None:
    one = enable(make(devices, ports=ports), replaces=replaces)
    assert counts(one) == expected
    assert one.obstacle == obstacle


@pytest.mark.parametrize(
    ("ports", "scope", "persistent", "word"),
    [
        (1, Scope(named=True), True, "attached"),
        (1, Scope(named=False), True, "next-start"),
        (1, Scope(named=False), False, "attached"),
        (2, Scope(named=False), True, "attached"),
    ],
)
def test_who_takes_the_last_port(
    make: MakeHalf, guest: Guest, ports: int, scope: Scope, word: str, *, persistent: bool
) -> None:
    guest._standing = Standing(active=True, persistent=persistent, saved=False, snapshots=False)
    one = enable(make("", ports=ports), scope=scope)
    assert one.word == word
    assert one.obstacle == (preflight.LAST_PORT if word == "next-start" else None)
    until = " until its next start" if persistent else ""
    assert (f", on its last free pcie-root-port{until}" in one.why) is (word == "attached" and ports == 1)


def test_a_definition_knows_no_obstacle(make: MakeHalf) -> None:
    for devices, replaces in (("", False), (EGD, True), (OURS.replace("4096", "777"), False)):
        one = enable(make(devices, live=False), replaces=replaces)
        assert (one.obstacle, len(one.add)) == (None, 1)


def test_where_it_goes(make: MakeHalf) -> None:
    def place(one: Plan) -> dict[str, str]:
        assert one.gives
        return dict(one.gives.address.attributes) if one.gives.address else {}

    assert place(enable(make("", ports=1))) == {}
    assert place(enable(make("", live=False)))["slot"] == "0x19"
    assert place(enable(make("", live=False, machine=I440FX))) == {}
    assert place(enable(make(FOREIGN, ports=1), replaces=True))["bus"] == "0x01"
    assert place(enable(make(FOREIGN, live=False), replaces=True))["bus"] == "0x00"
    assert place(enable(make(ON_A_PORT.replace("4096", "777"), ports=2)))["bus"] == "0x02"
    other_model = replace(WANTED, model="virtio-non-transitional")
    assert place(enable(make(ON_A_PORT, ports=2), wanted=other_model)) == {}


def test_a_transitional_device_is_not_plugged_into_a_root_port(make: MakeHalf) -> None:
    wanted = replace(WANTED, model="virtio-transitional")
    assert enable(make("", ports=2), wanted=wanted).word == "next-start"
    assert enable(make("", machine=I440FX), wanted=wanted).word == "attached"
    assert enable(make("", live=False), wanted=wanted).word == "attached"


def test_without_acpi_i440fx_takes_nothing(make: MakeHalf) -> None:
    one = enable(make("", machine=I440FX.replace("<acpi/>", "")))
    assert one.why == "its pci bus takes and gives no device while it runs: from its next start"


def test_what_was_replaced_is_kept_and_comes_back(make: MakeHalf) -> None:
    given = enable(make(FOREIGN, live=False), replaces=True)
    assert [xml.text_of(element) for element in given.kept] == [xml.text_of(xml.read(FOREIGN))]
    note = transform.note(WISH, given.kept).replace("guest", "v:guest xmlns:v='urn:virtrng:domain:1'", 1)
    note = note.replace("replaced>", "v:replaced>").replace("</guest>", "</v:guest>")
    half = make(OURS, live=False, metadata=note)
    assert enable(half).kept == half.kept
    back = plan.disable(half, BOTH, forget=False)
    assert counts(back) == ("detached", 1, 1)
    assert (back.wish, back.kept, back.kept_until) == (Wish(wanted=False), (), half.kept)
    assert plan.disable(half, BOTH, forget=True).wish is None
    # Cut short after it was written down: it is completed, unasked.
    assert counts(enable(make(FOREIGN, live=False, metadata=note))) == ("replaced", 1, 1)
    # Cut short after it came back: it is not given twice.
    assert counts(plan.disable(make(FOREIGN, live=False, metadata=note), BOTH, forget=False)) == (
        "foreign",
        0,
        0,
    )
    # One that is another's is not taken for it.
    other = FOREIGN.replace("/dev/urandom", "/dev/random")
    assert counts(enable(make(other, live=False, metadata=note))) == ("foreign", 0, 0)


@pytest.mark.parametrize(
    ("devices", "expected", "why"),
    [
        ("", ("absent", 0, 0), "has none"),
        (FOREIGN, ("foreign", 0, 0), "its virtio-rng is not ours (/dev/urandom, unlimited) and stays"),
        (ON_A_PORT, ("detached", 1, 0), "taken away"),
        (ON_A_PORT + FOREIGN, ("detached", 1, 0), "taken away"),
        (OURS, ("next-start", 0, 0), f"{preflight.ON_ROOT_COMPLEX}: gone at its next start"),
    ],
)
def test_disable(make: MakeHalf, devices: str, expected: tuple[str, int, int], why: str) -> None:
    one = plan.disable(make(devices, ports=2), BOTH, forget=False)
    assert (counts(one), one.why) == (expected, why)


def test_the_words_for_what_others_gave(make: MakeHalf) -> None:
    assert enable(make(FOREIGN)).why == (
        "already has a virtio-rng (foreign, /dev/urandom, unlimited), fed by the same host pool;"
        " --replace brings it to policy"
    )
    assert enable(make(FOREIGN + EGD)).why == (
        "already has 2 virtio-rngs (foreign, /dev/urandom, unlimited; egd, unlimited);"
        " --replace makes one of them"
    )
    assert enable(make(OURS + FOREIGN)).why == (
        "has it already (/dev/random, 4096 B/1000 ms); beside it is another virtio-rng"
        " (foreign, /dev/urandom, unlimited), which --replace removes"
    )


@pytest.mark.parametrize(
    ("told", "lacking"),
    [
        ("<x/>", None),
        ("<rng supported='no'/>", "virtio-rng"),
        ("<rng supported='yes'/>", None),
        ("<rng supported='yes'><enum name='model'><value>virtio</value></enum></rng>", None),
        (
            "<rng supported='yes'><enum name='model'><value>virtio-transitional</value></enum></rng>",
            "virtio among its rng models",
        ),
        (
            "<rng supported='yes'><enum name='backendModel'><value>egd</value></enum></rng>",
            "random among its rng backends",
        ),
    ],
)
def test_what_a_qemu_lacks(told: str, lacking: str | None) -> None:
    document = f"<domainCapabilities><devices>{told}</devices></domainCapabilities>".encode()
    assert preflight.lacks(document, "virtio", "random") == lacking


def test_a_bus_without_a_free_slot(make: MakeHalf) -> None:
    disks = "".join(f"<disk><address type='pci' bus='0' slot='{slot}'/></disk>" for slot in range(2, 32))
    for devices, machine, full in (
        (disks, I440FX, True),
        (disks.replace("slot='9'", "slot='8'"), I440FX, False),
        (disks + PORT.format(1).replace("pcie-root-port", "pci-bridge"), I440FX, False),
        (disks, Q35, False),
    ):
        half = make(devices, machine=machine, live=False)
        assert half.before.full is full
        if full:
            with pytest.raises(Refused, match=preflight.FULL) as caught:
                reconcile.plans_to_enable([half], DomainSettings(), Request(), BOTH)
            assert "pci-bridge" in caught.value.remedy
        running = enable(make(devices, machine=machine, ports=0), scope=BOTH)
        assert (running.obstacle == preflight.FULL) is full
