# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest has, what it should have, and where they differ: for `virtrng status`. Changes nothing."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from virtrng.config import DomainSettings
from virtrng.domain import halves, manage, plan, policy, preflight
from virtrng.domain.facts import Facts
from virtrng.domain.halves import Half
from virtrng.domain.hypervisor import Guest
from virtrng.domain.policy import Refusal, Request
from virtrng.domain.rng import RngDevice
from virtrng.domain.standing import State


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as it should be, and what helps: two phrases."""

    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Survey:
    """One guest.

    `policy` is a phrase for what it should have, "" where nothing was ever asked
    for; `differs` is what is otherwise.
    """

    name: str
    uuid: str
    state: State
    definition: Facts | None
    live: Facts | None
    policy: str
    differs: tuple[Difference, ...]

    @property
    def wanted(self) -> bool | None:
        """What its own metadata say; None where they say nothing."""
        first = self.definition or self.live
        return first.wish.wanted if first and first.wish else None


def of(guest: Guest, settings: DomainSettings, remembered: Collection[str] | None = None) -> Survey:
    """Look at a guest. Raises what reading it raises; Refused where it ended meanwhile.

    `remembered` are those that were there when the watcher first ran on this libvirt host; None if it
    never did: then nothing gives a guest its device but what asks for it.
    """
    found = halves.of(guest, halves.BOTH)
    facts = {half.live: half.before for half in found}
    wanted = _wanted(found, settings, remembered)
    return Survey(
        name=guest.name,
        uuid=guest.uuid,
        state=guest.state() if True in facts else State.OFF,
        definition=facts.get(False),
        live=facts.get(True),
        policy=str(wanted or ""),
        differs=tuple(_differences(found, wanted, settings)),
    )


def _wanted(
    found: list[Half], settings: DomainSettings, remembered: Collection[str] | None
) -> RngDevice | str | None:
    """Return the device that it should have, or in words why there is none; None for no opinion."""
    before = found[0].before
    has_ours = any(half.before.ours for half in found)
    if before.wish and not before.wish.wanted:
        return "no"
    if before.manager and not before.ours:
        return f"left to {before.manager}"
    replaced = before.foreign and policy.replaces(before, settings, Request())
    if not (before.wish or replaced or has_ours):
        if before.foreign or remembered is None:
            return None
        if left := manage.left_alone(before, settings, remembered, has_ours=False):
            return f"left alone ({left.briefly})"
    device = policy.decide(before, settings, Request())
    return f"impossible: {device.why}" if isinstance(device, Refusal) else device


def _differences(
    found: list[Half], wanted: RngDevice | str | None, settings: DomainSettings
) -> Iterator[Difference]:
    name, first = found[0].guest.name, found[0].before
    replaces = policy.replaces(first, settings, Request())
    for half in found:
        if what := _otherwise(half.before, wanted, replaces=replaces):
            command = "disable" if wanted == "no" else "enable"
            yield Difference(
                f"{half.where}: {what}", f"'virtrng {command} {name}', and a new start if it says so"
            )
        if len(half.before.foreigners) + bool(half.before.ours) > 1:
            count = len(half.before.foreigners) + bool(half.before.ours)
            what = f"{half.where}: {count} virtio-rngs"
            yield Difference(what, f"'virtrng enable --replace {name}' makes one of them")
    require = policy.requirement(first, settings)
    refused = preflight.bare_snapshots(found[0].guest) if require == "refuse" else 0
    if refused and found[0].guest.revert_looks_like_a_start:
        what = f"a revert to {refused} of its snapshots is refused: no virtio-rng"
        yield Difference(what, f"take new ones after 'virtrng enable {name}', or exempt it with a rule")
    if not (first.ours or first.foreign) and require != "off":
        word = "refused" if require == "refuse" else "warned of"
        yield Difference(f"no virtio-rng: its start is {word}", f"'virtrng enable {name}'")


def _otherwise(now: Facts, wanted: RngDevice | str | None, *, replaces: bool) -> str | None:
    if wanted == "no" and now.ours:
        return "has one that is not wanted"
    if not isinstance(wanted, RngDevice):
        return None
    if now.ours:
        return None if plan.fits(now.ours, wanted) else f"{now.ours} instead of {wanted}"
    if now.foreign:
        return f"a foreign one ({now.foreign}) instead of {wanted}" if replaces else None
    return "no virtio-rng"
