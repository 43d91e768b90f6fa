# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest should have, by the configuration, its own wish and what was asked. Touches no XML."""

from dataclasses import dataclass

from virtrng.config import SAFE_SOURCES, DomainSettings, Rate, Rule
from virtrng.domain import rules
from virtrng.domain.facts import OUR_TYPES, Bus, Facts, Wish
from virtrng.domain.rng import ALIAS, RngDevice

# libvirt's models of <rng> that a guest's virtio-rng driver serves (docs/formatdomain.rst); the
# latter two are of PCI alone.
MODELS = ("virtio", "virtio-transitional", "virtio-non-transitional")

# A Linux 6.1 guest without RDRAND and with nothing else to do had its generator ready 1.0 s after its
# driver was loaded at 64 B/s, after 4.0 s at 16 B/s, after 13 s at 5 B/s; at 1 B/s it never was.
READY_IN_ONE_SECOND_BYTES_PER_S = 64
SLOWEST_BYTES_PER_S = 8


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for beyond the configuration; None where it says nothing."""

    source: str | None = None
    rate: Rate | None = None
    model: str | None = None
    replace: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a guest cannot have the device, and what can be done about it."""

    code: str
    why: str
    remedy: str


def decide(facts: Facts, settings: DomainSettings, request: Request) -> RngDevice | Refusal:
    """Return the device that the guest should have, without an address, or why it can have none.

    For rate and source the command line comes first, then the guest's own wish,
    then the first rule that matches, then [domains].
    """
    if facts.type not in OUR_TYPES:
        return Refusal(
            "no-virtio",
            f"a guest of type '{facts.type}' has no virtio devices",
            "only QEMU's guests can have one",
        )
    if facts.bus is Bus.NONE:
        return Refusal(
            "no-bus",
            "its machine has no bus for a virtio device",
            "give it a machine of type q35, pc or virt",
        )
    if request.model in MODELS[1:] and facts.bus not in (Bus.PCI, Bus.PCIE):
        return Refusal(
            "no-such-model",
            f"its {facts.bus.value} bus has no {request.model} devices",
            "leave out --model",
        )
    rule = _rule_for(facts, settings)
    wish = facts.wish or Wish(wanted=True)
    source = request.source or wish.source or rule.source or settings.source
    if refusal := unsafe(source):
        return refusal
    rate = request.rate or wish.rate or rule.rate or settings.rate
    # What its metadata holds somebody has insisted on already.
    if not request.force and (request.rate or not wish.rate) and (refusal := _hopeless(rate)):
        return refusal
    present = facts.ours.model if facts.ours else MODELS[0]
    return RngDevice(source=source, rate=rate, model=request.model or present, alias=ALIAS)


def replaces(facts: Facts, settings: DomainSettings, request: Request) -> bool:
    """Whether a virtio-rng that is not ours gives way to ours."""
    return request.replace or (_rule_for(facts, settings).foreign or settings.foreign) == "replace"


def slow(rate: Rate | None) -> str | None:
    """Return what a guest has to expect of `rate` where it is a low one, else None."""
    if rate is None or _bytes_per_s(rate) >= READY_IN_ONE_SECOND_BYTES_PER_S:
        return None
    wait_s = READY_IN_ONE_SECOND_BYTES_PER_S / _bytes_per_s(rate)
    return (
        f"at {rate} a guest may wait {wait_s:.3g} s for its generator to be ready;"
        f" {READY_IN_ONE_SECOND_BYTES_PER_S} B/s make it one"
    )


def _hopeless(rate: Rate) -> Refusal | None:
    if _bytes_per_s(rate) >= SLOWEST_BYTES_PER_S:
        return None
    return Refusal(
        "too-slow",
        f"{slow(rate)}",
        f"choose {SLOWEST_BYTES_PER_S} B/s or more with --rate, or insist with 'virtrng enable --force'",
    )


def _bytes_per_s(rate: Rate) -> float:
    return rate.bytes * 1000 / rate.period_ms


def unsafe(source: str) -> Refusal | None:
    """Return why QEMU must not draw from `source`, None if it may."""
    if source in SAFE_SOURCES:
        return None
    return Refusal(
        "unsafe-source",
        f"QEMU dies or hangs when '{source}' fails or ends",
        f"choose {' or '.join(SAFE_SOURCES)} with --source",
    )


def requirement(facts: Facts, settings: DomainSettings) -> str:
    """Return off, warn or refuse: what the hook does for this guest. Its own wish has no say in it."""
    return rules.requirement(facts.name, facts.uuid, facts.os, settings)


def _rule_for(facts: Facts, settings: DomainSettings) -> Rule:
    return rules.rule_for(facts.name, facts.uuid, facts.os, settings)
