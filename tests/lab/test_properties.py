# SPDX-License-Identifier: LGPL-2.1-or-later
"""Laws that hold for every definition: enabling twice is enabling once, and forgetting is the way back."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lab.guest import DomainOptions, LabGuest, domain_xml
from tests.lab.host import LabHost
from tests.lab.images import GuestImage, LabError
from tests.lab.product import ALIAS, FOREIGN, TREE, canonical, definition, rngs
from tests.lab.reconciled import NOTHING_ASKED, REPLACE, SETTINGS, enable
from tests.scale import scaled
from virtrng.config import Rate
from virtrng.domain import preflight, reconcile
from virtrng.domain.hypervisor import Guest, Hypervisor
from virtrng.domain.policy import Request
from virtrng.domain.reconcile import Outcome
from virtrng.errors import Refused

GOLDEN = sorted((TREE / "tests" / "data" / "xml").glob("*-in.xml"))
DEFINABLE_MIN = 8
NAME = "law"
REQUESTS = (NOTHING_ASKED, REPLACE, Request(rate=Rate(777)), Request(source="/dev/urandom", replace=True))
BUILTIN = "<rng model='virtio'><rate bytes='9' period='7'/><backend model='builtin'/></rng>"
UNLIMITED = "<rng model='virtio'><backend model='random'>/dev/random</backend></rng>"
OTHERS = "<other:kept xmlns:other='urn:other'>as it is<more/></other:kept>"
TOUCHED = (f"name='{ALIAS}'", "urn:virtrng:domain:1")


@contextmanager
def defined(host: LabHost, document: str) -> Iterator[Guest]:
    """Define it within the block, under a name of ours."""
    host.virsh("define", "/dev/stdin", stdin=document)
    try:
        with Hypervisor(host.uri) as hypervisor:
            yield hypervisor.guest(NAME)
    finally:
        LabGuest(host, NAME).remove()


def assert_laws(guest: Guest, request: Request) -> None:
    """Hold a guest that virtrng has not touched yet to them."""

    def now() -> str:
        return guest.definition().decode()

    def give(asked: Request) -> Outcome:
        return reconcile.enable(guest, SETTINGS, asked)

    before = now()
    give(request)
    once = now()
    if request.replace or not rngs(before):
        assert [one.alias for one in rngs(once)] == [ALIAS]
    else:
        assert canonical(once) == canonical(before)
    for again in (request, NOTHING_ASKED):
        assert (give(again).changed, now()) == (False, once)
    reconcile.disable(guest, forget=True)
    assert canonical(now()) == canonical(before)
    assert reconcile.disable(guest, forget=True).changed is False
    give(request)
    reconcile.disable(guest)
    assert canonical(now(), with_wish=False) == canonical(before)
    give(request)
    assert canonical(now()) == canonical(once)
    reconcile.disable(guest, forget=True)
    assert canonical(now()) == canonical(before)


def golden() -> Iterator[str]:
    """Yield the documents as a host without KVM can define them, under one name."""
    for file in GOLDEN:
        for found in re.findall(rb"<domain .*?</domain>", file.read_bytes(), re.DOTALL):
            text = found.decode(errors="replace").replace("type='kvm'", "type='qemu'")
            if not any(mark in text for mark in TOUCHED):
                yield re.sub("<name>.*?</name>", f"<name>{NAME}</name>", text)


def test_the_golden_definitions_obey(lab_host: LabHost) -> None:
    done, refused = 0, list[str]()
    for document in golden():
        try:
            with defined(lab_host, document) as guest:
                for request in REQUESTS:
                    assert_laws(guest, request)
        except LabError:  # another architecture, or a document that libvirt refuses as it is
            continue
        except Refused as refusal:
            refused.append(refusal.why)
            continue
        done += 1
    assert set(refused) <= {preflight.FULL}
    assert done >= DEFINABLE_MIN


OPTIONS = st.fixed_dictionaries({
    "machine": st.sampled_from(["q35", "pc"]),
    "acpi": st.booleans(),
    "root_ports": st.integers(0, 3),
    "extra_devices": st.lists(st.sampled_from([FOREIGN, BUILTIN, UNLIMITED]), max_size=3).map("".join),
    "metadata": st.sampled_from(["", OTHERS]),
})  # fmt: skip


@settings(
    derandomize=True,
    max_examples=scaled(20),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(options=OPTIONS, request=st.sampled_from(REQUESTS))
def test_every_definition_obeys(
    lab_host: LabHost, image: GuestImage, options: DomainOptions, request: Request
) -> None:
    with defined(lab_host, domain_xml(NAME, image=image, **options)) as guest:
        assert_laws(guest, request)


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_a_guest_that_was_enabled_can_take_a_disk_after_its_start(
    lab_host: LabHost, image: GuestImage, machine: str
) -> None:
    # As virt-install defines one: libvirt gives it ports for its devices, and one to spare.
    document = domain_xml(NAME, image=image, machine=machine, root_ports=0).replace(
        "<memballoon model='none'/>", "<memballoon model='virtio'/>"
    )
    with defined(lab_host, document):
        guest = LabGuest(lab_host, NAME)
        enable(guest)
        lab_host.virsh("start", NAME)
        disk = lab_host.outside("/var/lib/libvirt") / "law.img"
        disk.write_bytes(bytes(1 << 20))
        lab_host.virsh("attach-disk", NAME, str(disk), "vda", "--targetbus", "virtio", "--live")
        assert [one.alias for one in rngs(definition(guest))] == [ALIAS]
