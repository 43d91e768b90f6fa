# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest should have, by a table."""

import ast
from dataclasses import replace

import pytest

from tests.unit.support import ROOT
from virtrng.config import DomainSettings, Rate, Rule
from virtrng.domain import facts, policy, xml
from virtrng.domain.facts import OUR_TYPES, Bus, Wish
from virtrng.domain.policy import Refusal, Request, decide
from virtrng.domain.rng import ALIAS, RngDevice

UUID = "6695eb01-F6A4-8304-79aa-97f2502e193f"
GUEST = facts.of(xml.parse(f"<domain type='kvm'><name>build-1</name><uuid>{UUID}</uuid></domain>".encode()))
PLAIN = DomainSettings()


def test_the_default_device() -> None:
    assert decide(GUEST, PLAIN, Request()) == RngDevice(
        source="/dev/random", rate=Rate(4096, 1000), model="virtio", backend="random", alias=ALIAS
    )


@pytest.mark.parametrize("kind", OUR_TYPES)
def test_guests_of_qemu_can_have_it(kind: str) -> None:
    assert isinstance(decide(replace(GUEST, type=kind), PLAIN, Request()), RngDevice)


REFUSALS = [
    (replace(GUEST, type="lxc"), Request(), "no-virtio", "a guest of type 'lxc' has no virtio devices"),
    (replace(GUEST, type="xen"), Request(), "no-virtio", "a guest of type 'xen' has no virtio devices"),
    (replace(GUEST, bus=Bus.NONE), Request(), "no-bus", "its machine has no bus for a virtio device"),
    (GUEST, Request(source="/dev/hwrng"), "unsafe-source",
     "QEMU dies or hangs when '/dev/hwrng' fails or ends"),
    (replace(GUEST, wish=Wish(wanted=True, source="/run/fifo")), Request(), "unsafe-source",
     "QEMU dies or hangs when '/run/fifo' fails or ends"),
    (GUEST, Request(rate=Rate(7)), "too-slow",
     "at 7 B/1000 ms a guest may wait 9.14 s for its generator to be ready; 64 B/s make it one"),
    (replace(GUEST, bus=Bus.CCW), Request(model="virtio-transitional"), "no-such-model",
     "its ccw bus has no virtio-transitional devices"),
    (replace(GUEST, bus=Bus.MMIO), Request(model="virtio-non-transitional"), "no-such-model",
     "its virtio-mmio bus has no virtio-non-transitional devices"),
]  # fmt: skip


@pytest.mark.parametrize(("guest", "request_", "code", "why"), REFUSALS)
def test_refusals(guest: facts.Facts, request_: Request, code: str, why: str) -> None:
    refusal = decide(guest, PLAIN, request_)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.why) == (code, why)
    assert refusal.remedy
    assert not refusal.remedy.endswith(".")


def test_every_refusal_is_brought_about() -> None:
    tree = ast.parse((ROOT / "virtrng" / "domain" / "policy.py").read_text())
    codes = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Refusal"
        and isinstance(node.args[0], ast.Constant)
    }
    assert codes == {row[2] for row in REFUSALS}


@pytest.mark.parametrize("source", ["/dev/random", "/dev/urandom"])
def test_safe_sources(source: str) -> None:
    assert policy.unsafe(source) is None


RULED = DomainSettings(
    source="/dev/urandom",
    rate=Rate(10),
    rules=(Rule(match="build-*", rate=Rate(20)), Rule(match="build-1", rate=Rate(30), source="/dev/random")),
)


@pytest.mark.parametrize(
    ("settings", "wish", "request_", "source", "count"),
    [
        (PLAIN, None, Request(), "/dev/random", 4096),
        (RULED, None, Request(), "/dev/urandom", 20),
        (RULED, Wish(wanted=True, rate=Rate(5)), Request(), "/dev/urandom", 5),
        (RULED, Wish(wanted=True, source="/dev/random"), Request(), "/dev/random", 20),
        (RULED, Wish(wanted=True, rate=Rate(5)), Request(rate=Rate(60)), "/dev/urandom", 60),
        (RULED, Wish(wanted=True, source="/dev/urandom"), Request(source="/dev/random"), "/dev/random", 20),
        (RULED, Wish(wanted=True, source="/dev/hwrng"), Request(source="/dev/random"), "/dev/random", 20),
    ],
)
def test_the_command_line_then_the_wish_then_the_rule_then_the_rest(
    settings: DomainSettings, wish: Wish | None, request_: Request, source: str, count: int
) -> None:
    device = decide(replace(GUEST, wish=wish), settings, request_)
    assert isinstance(device, RngDevice)
    assert device.rate is not None
    assert (device.source, device.rate.bytes) == (source, count)


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (Rule(match="build-1"), True),
        (Rule(match="build-*"), True),
        (Rule(match="BUILD-*"), False),
        (Rule(match="build"), False),
        (Rule(match="[b]uild-?"), True),
        (Rule(match=UUID), True),
        (Rule(match=UUID.lower()), True),
        (Rule(match=UUID[:8] + "*"), False),
        (Rule(os="*debian*"), True),
        (Rule(os="*microsoft*"), False),
        (Rule(match="build-*", os="*debian*"), True),
        (Rule(match="other", os="*debian*"), False),
        (Rule(match="build-*", os="*microsoft*"), False),
    ],
)
def test_rules(rule: Rule, *, matches: bool) -> None:
    guest = replace(GUEST, os="http://debian.org/debian/12")
    settings = DomainSettings(rules=(replace(rule, require="refuse"),))
    assert policy.requirement(guest, settings) == ("refuse" if matches else "off")


@pytest.mark.parametrize(
    ("general", "rules", "expected"),
    [
        ("off", (), "off"),
        ("refuse", (), "refuse"),
        ("refuse", (Rule(match="build-*", require="off"),), "off"),
        ("refuse", (Rule(match="build-*"), Rule(match="*", require="off")), "refuse"),
        ("off", (Rule(match="a"), Rule(match="*", require="warn")), "warn"),
    ],
)
def test_requirement(general: str, rules: tuple[Rule, ...], expected: str) -> None:
    settings = DomainSettings(require=general, rules=rules)
    assert policy.requirement(GUEST, settings) == expected
    assert policy.requirement(replace(GUEST, wish=Wish(wanted=False)), settings) == expected


@pytest.mark.parametrize("rate", [Rate(7), Rate(79, 10_000), Rate(1, 4294967295)])
def test_a_rate_that_keeps_a_guest_waiting_is_taken_only_by_force(rate: Rate) -> None:
    for settings, asked in ((PLAIN, Request(rate=rate)), (DomainSettings(rate=rate), Request())):
        assert isinstance(decide(GUEST, settings, asked), Refusal)
        device = decide(GUEST, settings, replace(asked, force=True))
        assert isinstance(device, RngDevice)
        assert device.rate == rate
    # The guest's own wish: somebody has insisted on it already.
    assert isinstance(decide(replace(GUEST, wish=Wish(wanted=True, rate=rate)), PLAIN, Request()), RngDevice)


@pytest.mark.parametrize(
    ("rate", "wait"),
    [
        (None, None),
        (Rate(64), None),
        (Rate(4096), None),
        (Rate(32, 500), None),
        (Rate(63), "1.02"),
        (Rate(16), "4"),
        (Rate(5), "12.8"),
    ],
)
def test_a_low_rate_is_told(rate: Rate | None, wait: str | None) -> None:
    said = f"at {rate} a guest may wait {wait} s for its generator to be ready; 64 B/s make it one"
    assert policy.slow(rate) == (said if wait else None)


def test_the_model_that_is_there_stays_unless_another_is_asked_for() -> None:
    ours = RngDevice("/dev/random", Rate(4096), model="virtio-non-transitional", alias=ALIAS)
    guest = replace(GUEST, rngs=(ours,))
    assert decide(guest, PLAIN, Request()) == ours
    assert decide(guest, PLAIN, Request(model="virtio")) == replace(ours, model="virtio")


@pytest.mark.parametrize(
    ("settings", "asked", "expected"),
    [
        (PLAIN, Request(), False),
        (PLAIN, Request(replace=True), True),
        (DomainSettings(foreign="replace"), Request(), True),
        (DomainSettings(foreign="replace", rules=(Rule(match="build-*", foreign="keep"),)), Request(), False),
        (DomainSettings(rules=(Rule(match="build-*", foreign="replace"),)), Request(), True),
        (DomainSettings(rules=(Rule(match="web-*", foreign="replace"),)), Request(), False),
    ],
)
def test_who_gives_way(settings: DomainSettings, asked: Request, *, expected: bool) -> None:
    assert policy.replaces(GUEST, settings, asked) is expected
