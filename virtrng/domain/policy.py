# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest should have, by the configuration, its own wish and what was asked. Touches no XML."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from virtrng.config import SAFE_SOURCES, DomainSettings, Rate, Rule
from virtrng.domain.facts import OUR_TYPES, Bus, Facts, Wish
from virtrng.domain.rng import ALIAS, RngDevice


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for beyond the configuration; None where it says nothing."""

    source: str | None = None
    rate: Rate | None = None


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
    rule = _rule_for(facts, settings)
    wish = facts.wish or Wish(wanted=True)
    source = request.source or wish.source or rule.source or settings.source
    if refusal := unsafe(source):
        return refusal
    rate = request.rate or wish.rate or rule.rate or settings.rate
    return RngDevice(source=source, rate=rate, alias=ALIAS)


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
    return _rule_for(facts, settings).require or settings.require


def _rule_for(facts: Facts, settings: DomainSettings) -> Rule:
    """Return the first rule that matches, or one that says nothing."""
    return next((rule for rule in settings.rules if _matches(rule, facts)), Rule())


def _matches(rule: Rule, facts: Facts) -> bool:
    by_name = (
        rule.match is None or fnmatchcase(facts.name, rule.match) or rule.match.lower() == facts.uuid.lower()
    )
    return by_name and (rule.os is None or fnmatchcase(facts.os, rule.os))
