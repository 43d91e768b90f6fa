# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is to be done to one half of a guest: it is what `--dry-run` shows and `reconcile` does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from virtrng.domain import preflight, rng, transform, xml
from virtrng.domain.facts import Bus, Wish
from virtrng.domain.halves import Half, Scope
from virtrng.domain.rng import RngDevice


@dataclass(frozen=True, slots=True)
class Plan:
    """Devices to remove and to add, and how to say so: one word for scripts, a phrase for people.

    `wish` is what the metadata are to hold, with the foreign devices `kept` to be
    put back one day; `kept_until` holds those that are kept until this is done.
    `gives` is our device, where it is among those to add.
    """

    half: Half
    word: str
    why: str
    wish: Wish | None
    kept: tuple[xml.Element, ...] = ()
    kept_until: tuple[xml.Element, ...] = ()
    remove: tuple[xml.Element, ...] = ()
    add: tuple[xml.Element, ...] = ()
    gives: RngDevice | None = None
    obstacle: str | None = None

    @property
    def idle(self) -> bool:
        """Whether no device changes."""
        return not self.remove and not self.add


def enable(half: Half, device: RngDevice, wish: Wish | None, scope: Scope, *, replaces: bool) -> Plan:
    """Plan to give the half `device`, in the place of foreign ones where it `replaces` them."""
    now, kept = half.before, half.kept
    foreign = _foreign(half)
    # What is kept and still there shows a replacement that was interrupted.
    if not replaces and not any(is_among(element, kept) for element in foreign):
        foreign = ()
    if now.foreigners and not foreign and not now.ours:
        return Plan(half, "foreign", transform.left_alone(now.foreigners), wish, kept)
    plan = Plan(
        half,
        "already",
        f"has it already ({now.ours}){_second(now.foreigners)}",
        wish,
        kept=kept + tuple(element for element in foreign if not is_among(element, kept)),
        remove=foreign,
    )
    if now.ours and fits(now.ours, device):
        taken = "; what was beside it is taken away"
        plan = replace(plan, word="replaced", why=f"has it already ({now.ours}){taken}") if foreign else plan
    elif now.ours:
        plan = _exchange(plan, now.ours, device)
    else:
        plan = _attach(plan, device)
    return _unless_obstructed(
        plan, scope, f"{device} from its next start" if now.ours else "from its next start"
    )


def disable(half: Half, scope: Scope, *, forget: bool) -> Plan:
    """Plan to take our device away, and to put back what it replaced."""
    now, kept = half.before, half.kept
    wish = None if forget else Wish(wanted=False)
    missing = tuple(element for element in kept if not is_among(element, _foreign(half)))
    if now.ours is None and not missing:
        if now.foreign:
            return Plan(half, "foreign", f"its virtio-rng is not ours ({now.foreign}) and stays", wish)
        return Plan(half, "absent", "has none", wish)
    back = f"; what it replaced ({_listed(missing)}) is put back" if missing else ""
    plan = Plan(half, "detached", f"taken away{back}", wish, kept_until=kept, remove=_ours(half), add=missing)
    return _unless_obstructed(plan, scope, f"{'gone' if now.ours else 'put back'} at its next start")


def fits(present: RngDevice, wanted: RngDevice) -> bool:
    """Whether a device of ours is as it is wanted."""
    return present.same_service(wanted) and present.model == wanted.model


def is_among(element: xml.Element, others: Sequence[xml.Element]) -> bool:
    """Whether the device of `element` is one of `others`, whatever libvirt calls them."""
    return _identity(rng.from_element(element)) in [_identity(rng.from_element(other)) for other in others]


def _identity(device: RngDevice) -> RngDevice:
    return replace(device, alias=device.alias if device.ours else None)


def _ours(half: Half) -> tuple[xml.Element, ...]:
    return tuple(one for one in half.root.iterfind("devices/rng") if rng.from_element(one).ours)


def _foreign(half: Half) -> tuple[xml.Element, ...]:
    if not half.before.foreigners:
        return ()
    found = [(element, rng.from_element(element)) for element in half.root.iterfind("devices/rng")]
    return tuple(element for element, device in found if device.virtio and not device.ours)


def _listed(elements: Sequence[xml.Element]) -> str:
    return "; ".join(str(rng.from_element(element)) for element in elements)


def _exchange(plan: Plan, old: RngDevice, device: RngDevice) -> Plan:
    """Detach the old device and attach the new one at its place: libvirt cannot update an rng."""
    same_kind = old.model == device.model  # each model of PCI wants a slot of its own kind
    new = replace(device, address=old.address) if same_kind else _placed(plan.half, device)
    return replace(
        plan,
        word="attached",
        why=f"changed from {old} to {device}",
        remove=(*_ours(plan.half), *plan.remove),
        add=(rng.to_element(new),),
        gives=new,
    )


def _attach(plan: Plan, device: RngDevice) -> Plan:
    half, foreign = plan.half, plan.remove
    if not foreign:
        when = _last_port(half) if half.guest.active else ", from its next start"
        why = f"given a virtio-rng ({device}){when}"
        new = _placed(half, device)
        return replace(plan, word="attached", why=why, add=(rng.to_element(new),), gives=new)
    new, old = _placed(half, device), rng.from_element(foreign[0])
    if half.live and old.model == device.model:
        new = replace(device, address=old.address)
    why = f"given a virtio-rng ({device}) in the place of its own ({_listed(foreign)})"
    return replace(plan, word="replaced", why=why, add=(rng.to_element(new),), gives=new)


def _placed(half: Half, device: RngDevice) -> RngDevice:
    return device if half.live else transform.placed(device, half.before)


def _last_port(half: Half) -> str:
    """Say that the owner can plug in nothing more for now, where that is so."""
    if not half.live or half.before.bus is not Bus.PCIE or half.before.free_ports != 1:
        return ""
    return f", on its last free pcie-root-port{' until its next start' if half.guest.persistent else ''}"


def _unless_obstructed(plan: Plan, scope: Scope, instead: str) -> Plan:
    if plan.idle or not plan.half.live:
        return plan
    devices = [rng.from_element(element) for element in plan.remove]
    why = preflight.obstacle(plan.half, devices, [rng.from_element(element) for element in plan.add], scope)
    return plan if why is None else obstructed(plan, why, instead)


def obstructed(plan: Plan, why: str, instead: str) -> Plan:
    """Return the plan that changes no device, because of `why`."""
    return replace(
        plan,
        word="next-start",
        why=f"{why}: {instead}",
        obstacle=why,
        remove=(),
        add=(),
        gives=None,
        kept_until=(),
    )


def _second(devices: Sequence[RngDevice]) -> str:
    listed = "; ".join(map(str, devices))
    return (
        f"; beside it is another virtio-rng (foreign, {listed}), which --replace removes" if devices else ""
    )
