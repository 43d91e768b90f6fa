# SPDX-License-Identifier: LGPL-2.1-or-later
"""kill -9 at random moments of a change to many: nothing is lost or doubled, the next run completes it."""

import random
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from tests.lab.guest import LabGuest
from tests.lab.host import LabHost
from tests.lab.images import GuestImage
from tests.lab.product import ALIAS, FOREIGN, TREE, canonical, command, rngs, virtrng
from tests.scale import scaled
from virtrng.domain.hypervisor import Hypervisor

GUESTS = 16
MOMENTS = 50 if scaled(1) > 1 else 10


@pytest.fixture
def host(lab: None) -> Iterator[LabHost]:
    """Yield a host of its own: '--all' is meant."""
    with LabHost("omega") as host:
        yield host


def definitions(host: LabHost) -> dict[str, str]:
    """Return all definitions by name."""
    with Hypervisor(host.uri) as hypervisor:
        found = hypervisor.guests()
        assert len({guest.name for guest in found}) == len(found)
        return {guest.name: guest.definition().decode() for guest in found}


def without_rng(domain: str) -> str:
    """Return a definition without its random number devices and our notes, in a form to compare."""
    root = ET.fromstring(domain)
    devices = root.find("devices")
    assert devices is not None
    for element in devices.findall("rng"):
        devices.remove(element)
    return canonical(ET.tostring(root, encoding="unicode"), with_wish=False)


def kill_within(host: LabHost, longest_s: float, draw: random.Random, *arguments: str) -> None:
    """Run virtrng and kill it at a moment that is drawn, unless it ends before."""
    line = command(host, *arguments)
    with subprocess.Popen(line, cwd=TREE, stdout=subprocess.DEVNULL) as process:
        try:
            process.wait(timeout=draw.uniform(0.1, longest_s))
        except subprocess.TimeoutExpired:
            process.kill()


def test_killed_at_any_moment(host: LabHost, image: GuestImage) -> None:
    draw = random.Random(20261124)
    for n in range(GUESTS):
        foreign = FOREIGN if n % 4 == 0 else ""
        machine = ("q35", "pc")[n % 2]
        LabGuest.define(host, f"g{n}", image=image, extra_devices=foreign, machine=machine)
    before = definitions(host)
    assert len(before) == GUESTS
    began_s = time.monotonic()
    assert virtrng(host, "enable", "--all", "--replace").code == 0
    longest_s = time.monotonic() - began_s
    for moment in range(MOMENTS):
        rate = (1000 + moment, 1000)
        arguments = draw.choice([
            ("enable", "--all", "--replace", "--rate", "{}/{}".format(*rate)),
            ("disable", "--all", "--forget"),
        ])  # fmt: skip
        kill_within(host, longest_s, draw, *arguments)
        halfway = definitions(host)
        assert halfway.keys() == before.keys()
        for name, domain in halfway.items():
            assert without_rng(domain) == without_rng(before[name])
            assert len(rngs(domain)) <= 1
        assert virtrng(host, *arguments).code == 0
        for name, domain in definitions(host).items():
            if arguments[0] == "disable":
                assert canonical(domain) == canonical(before[name])
            else:
                assert [(one.alias, one.rate) for one in rngs(domain)] == [(ALIAS, rate)]
