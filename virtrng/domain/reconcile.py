# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bring one guest to what is wanted: compare, do the least, read back.

Level-triggered: it looks at what is, not at what happened, so running it twice
changes nothing, and an interrupted change is completed by the next run. The wish
is written first and the device after it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from virtrng.config import DomainSettings
from virtrng.domain import halves, plan, policy, preflight, rng, transform, xml
from virtrng.domain.detach import Sleep, detach
from virtrng.domain.facts import Bus, Facts, Wish
from virtrng.domain.halves import BOTH, Half, Scope
from virtrng.domain.hypervisor import Guest
from virtrng.domain.plan import Plan
from virtrng.domain.policy import Refusal, Request
from virtrng.domain.rng import RngDevice
from virtrng.domain.standing import State
from virtrng.errors import HypervisorFault, NotAttached, Refused, VirtrngError


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one half: one word for scripts, a phrase for people."""

    word: str
    why: str
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a guest; `notes` are what its owner should know besides.

    `error` is set where its second half failed.
    """

    name: str
    uuid: str
    changed: bool
    config: str
    live: str
    why: str
    notes: tuple[str, ...] = ()
    error: VirtrngError | None = None


def enable(
    guest: Guest,
    settings: DomainSettings,
    request: Request,
    scope: Scope = BOTH,
    sleep: Sleep = time.sleep,
    *,
    definition: bytes | None = None,
) -> Outcome:
    """Give `guest` the device that policy wants, in its definition and while it runs.

    A guest that does not want one, or that another program manages, is passed over
    unless it was named. Raises Refused where it can have none, DomainBusy, and what
    libvirt raises for the first half; a failure of the second is in the outcome,
    with what became of the first. `definition` is that of the guest, where it is
    known already.
    """
    return enable_halves(halves.of(guest, scope, definition), settings, request, scope, sleep)


def enable_halves(
    found: Sequence[Half],
    settings: DomainSettings,
    request: Request,
    scope: Scope,
    sleep: Sleep = time.sleep,
) -> Outcome:
    """Do what `enable` does to a guest whose halves have been looked at already. Raises as that does."""
    guest = found[0].guest
    if passed := passed_over(guest, found[0].before, scope, giving=True):
        return passed
    return _apply(guest, plans_to_enable(found, settings, request, scope), sleep)


def disable(guest: Guest, scope: Scope = BOTH, *, forget: bool = False, sleep: Sleep = time.sleep) -> Outcome:
    """Take our device away and record that the guest does not want one; with `forget` leave no trace.

    What our device had replaced is put back; a device that is not ours stays.
    Raises as `enable` does.
    """
    found = halves.of(guest, scope)
    if passed := passed_over(guest, found[0].before, scope, giving=False):
        return passed
    return _apply(guest, plans_to_disable(found, scope, forget=forget), sleep)


def plans_to_enable(
    found: Sequence[Half], settings: DomainSettings, request: Request, scope: Scope
) -> list[Plan]:
    """Return what `enable` has to do to each half. Raises Refused."""
    guest, before = found[0].guest, found[0].before
    device = policy.decide(before, settings, request)
    if isinstance(device, Refusal):
        raise Refused(guest.name, device.why, device.remedy)
    replaces = policy.replaces(before, settings, request)
    if before.foreign and not before.ours and not replaces and not found[0].kept:
        wish = None  # nothing of ours will be there: no wish but that none is forbidden
    else:
        held = before.wish or Wish(wanted=True)
        wish = Wish(wanted=True, source=request.source or held.source, rate=request.rate or held.rate)
    plans = [plan.enable(half, device, wish, scope, replaces=replaces) for half in found]
    if plans[0].gives and not plans[0].remove:
        preflight.check_room(guest, before)
    return _not_in_vain(plans)


def plans_to_disable(found: Sequence[Half], scope: Scope, *, forget: bool) -> list[Plan]:
    """Return what `disable` has to do to each half. Raises Refused."""
    return _not_in_vain([plan.disable(half, scope, forget=forget) for half in found])


def _not_in_vain(plans: list[Plan]) -> list[Plan]:
    """Raise Refused where nothing can be done now, and no definition has it done at the next start."""
    guest, why = plans[0].half.guest, plans[0].obstacle
    if why is None:
        return plans
    if guest.persistent:
        raise Refused(guest.name, why, "leave out --live: its next start follows its definition")
    raise Refused(guest.name, f"{why}, and it is transient", "'virtrng xml' gives its XML the device")


def passed_over(guest: Guest, before: Facts, scope: Scope, *, giving: bool) -> Outcome | None:
    """Leave alone what was not named and somebody else has decided about: its owner, its manager."""
    if scope.named:
        return None
    word = why = ""
    if before.manager:
        word, why = "managed", f"managed by {before.manager}, and left alone unless it is named"
    elif giving and before.wish and not before.wish.wanted:
        word, why = "not-wanted", f"does not want one; 'virtrng enable {guest.name}' changes that"
    return Outcome(guest.name, guest.uuid, changed=False, config=word, live=word, why=why) if word else None


def _apply(guest: Guest, plans: list[Plan], sleep: Sleep) -> Outcome:
    touching = not all(one.idle and not _must_record(one.half, *_beginning(one)) for one in plans)
    plans, paused = _looked_over(guest, plans) if touching else (plans, False)
    recorded = [_begin(one) for one in plans] if touching else [False]
    steps: dict[bool, Step] = {}
    error: VirtrngError | None = None
    both = _at_once(guest, plans)
    for one in plans:
        try:
            steps[one.half.live] = both or _execute(one, sleep, paused=paused)
        except VirtrngError as failure:
            if one.half.live and _has_stopped(guest):
                steps[True] = Step("not-running", "it has stopped meanwhile")
                continue
            if not steps:
                raise
            error = failure
            steps[one.half.live] = Step("failed", str(failure))
    changed = any(recorded) or any(step.changed for step in steps.values())
    return Outcome(
        name=guest.name,
        uuid=guest.uuid,
        changed=changed,
        config=steps[False].word if False in steps else "untouched" if guest.persistent else "transient",
        live=steps[True].word if True in steps else "untouched" if guest.active else "not-running",
        why=_summary(plans, steps),
        notes=tuple(_notes(guest, plans, changed=changed)),
        error=error,
    )


def _looked_over(guest: Guest, plans: list[Plan]) -> tuple[list[Plan], bool]:
    """Look whether it can be done now; return what can, and whether the guest is paused."""
    if device := next(filter(None, (one.gives for one in plans)), None):
        preflight.check_capabilities(guest, plans[0].half.before, device)
    if not guest.active:
        return plans, False
    state = preflight.state_of(guest)
    if state is State.CRASHED:
        plans = [
            one
            if one.idle or not one.half.live
            else plan.obstructed(one, "it has crashed", "at its next start")
            for one in plans
        ]
    return _not_in_vain(plans), state is State.PAUSED


def _has_stopped(guest: Guest) -> bool:
    try:
        return guest.state() is State.OFF
    except VirtrngError:  # what failed first tells more
        return False


def _summary(plans: Sequence[Plan], steps: dict[bool, Step]) -> str:
    """Say it once where it is the same for both halves."""
    phrases = list(dict.fromkeys(step.why for step in steps.values()))
    if len(phrases) > 1:
        return "; ".join(f"{one.half.where}: {steps[one.half.live].why}" for one in plans)
    if all(step.word == "foreign" for step in steps.values()):
        return phrases[0]
    return f"{' and '.join(one.half.where for one in plans)}: {phrases[0]}"


def _notes(guest: Guest, plans: Sequence[Plan], *, changed: bool) -> list[str]:
    """Return what the owner should know besides."""
    notes = [preflight.port_remedy(guest.name, one.obstacle) for one in plans if one.obstacle]
    first = plans[0]
    if changed and not first.half.live:
        device = first.gives or (first.half.before.ours if first.word == "already" else None)
        notes += preflight.expectations(device) if device else []
        notes += preflight.remembered(guest, device) if first.word != "foreign" else []
    if changed and first.wish and not first.wish.wanted:
        notes.append(f"it is remembered as not wanted; 'virtrng enable {guest.name}' clears that")
    return list(filter(None, notes))


def _beginning(one: Plan) -> tuple[Wish | None, tuple[xml.Element, ...]]:
    """Return what the metadata hold while devices change: it has the next run complete what is cut short."""
    if one.kept_until:
        return one.wish or Wish(wanted=False), one.kept_until
    return one.wish, one.kept


def _begin(one: Plan) -> bool:
    """Record the wish; return whether it was another one."""
    wish, kept = _beginning(one)
    if not _must_record(one.half, wish, kept):
        return False
    _record(one.half, wish, kept)
    return True


def _must_record(half: Half, wish: Wish | None, kept: tuple[xml.Element, ...]) -> bool:
    same = kept is half.kept or [*map(xml.fragment, kept)] == [*map(xml.fragment, half.kept)]
    return half.before.wish != wish or not same


def _record(half: Half, wish: Wish | None, kept: tuple[xml.Element, ...]) -> None:
    half.guest.record(transform.note(wish, kept) if wish else None, live=half.live)


def _at_once(guest: Guest, plans: Sequence[Plan]) -> Step | None:
    """Attach to both halves in one call, where the device has the same place in both.

    libvirt chooses it, by what is free: so where both have the same devices. Not
    on a PCIe machine. None where that is not so, or failed: then half by half,
    which shows the one that it fails in.
    """
    if len(plans) != 2 or any(one.obstacle or one.remove or not one.add for one in plans):
        return None
    texts = {xml.text_of(element) for one in plans for element in one.add}
    now = [one.half.before for one in plans]
    if len(texts) > 1 or now[0].bus is Bus.PCIE or now[0].slots_used != now[1].slots_used:
        return None
    try:
        guest.attach_to_both(*texts)
    except HypervisorFault:
        return None
    for one in plans:
        _verify(one.half, rng.from_element(one.add[0]))
    return Step(plans[0].word, plans[0].why, changed=True)


def _execute(one: Plan, sleep: Sleep, *, paused: bool) -> Step:
    """Do it; what is in the way of the rest is put back."""
    if one.idle:
        return Step(one.word, one.why)
    gone: list[xml.Element] = []
    try:
        for element in one.remove:
            if not detach(one.half, element, sleep, paused=paused):
                _put_back(one.half, gone)
                return _not_let_go(one, paused=paused)
            gone.append(element)
        for element in one.add:
            _attach(one.half, element)
    except VirtrngError:
        _put_back(one.half, gone)
        raise
    if one.kept_until:
        _record(one.half, one.wish, one.kept)
    return Step(one.word, one.why, changed=True)


def _not_let_go(one: Plan, *, paused: bool) -> Step:
    when = "from its next start" if one.gives else "gone at its next start"
    if paused:
        return Step("next-start", f"it is paused, and lets go of nothing: {when}", changed=True)
    return Step("next-start", f"it has not let go of its device: {when}", changed=True)


def _put_back(half: Half, elements: Sequence[xml.Element]) -> None:
    for element in elements:
        _attach(half, element)


def _attach(half: Half, element: xml.Element) -> None:
    """Attach a device and see it there; ours that another virtrng attached meanwhile will do."""
    device = rng.from_element(element)
    try:
        half.guest.attach(xml.text_of(element), live=half.live)
    except HypervisorFault:
        now = half.read()
        if not (device.ours and now.ours):
            if half.live or device.address is None:
                raise
            _attach_elsewhere(half, device, now)
    _verify(half, device)


def _attach_elsewhere(half: Half, device: RngDevice, now: Facts) -> None:
    """Attach to a definition in which somebody has taken the place meanwhile. Raises what libvirt does."""
    anywhere = replace(device, address=None)
    place = transform.placed(anywhere, now) if device.ours else anywhere
    half.guest.attach(xml.text_of(rng.to_element(place)), live=False)


def _verify(half: Half, device: RngDevice) -> None:
    if not any(one.ours == device.ours and plan.fits(one, device) for one in half.devices()):
        raise NotAttached(half.guest.name, half.where, "the device is not in its")
