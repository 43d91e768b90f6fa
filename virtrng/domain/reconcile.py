# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bring one guest to what is wanted: compare, do the least, read back.

Level-triggered: it looks at what is, not at what happened, so running it twice
changes nothing, and an interrupted change is completed by the next run. The wish
is written first and the device after it.
"""

import difflib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from virtrng.config import SAFE_SOURCES, DomainSettings
from virtrng.domain import facts, rng, transform, xml
from virtrng.domain.facts import Bus, Facts, Wish
from virtrng.domain.hypervisor import Guest
from virtrng.domain.policy import Refusal, Request, decide
from virtrng.domain.rng import ALIAS, RngDevice
from virtrng.errors import HypervisorFault, NotAttached, Refused, VirtrngError

# A guest in firmware or early boot ignores the request to let go of a device,
# silently, and does it when asked again later (libvirt 9.0 with QEMU 7.2).
ASK_AGAIN_AFTER_S = (5.0, 10.0, 20.0)
POLL_S = 0.1

Sleep = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which halves of a guest may be touched."""

    config: bool = True
    live: bool = True


BOTH = Scope()


@dataclass(frozen=True, slots=True)
class Half:
    """The definition of a guest, or the guest as it runs; `before` is what was found there."""

    guest: Guest
    live: bool
    before: Facts

    @property
    def where(self) -> str:
        """For messages."""
        return "running guest" if self.live else "definition"

    def read(self) -> Facts:
        """Look again."""
        return facts.of(xml.parse(_content(self.guest, live=self.live)))


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one half: one word for scripts, a phrase for people."""

    word: str
    why: str
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a guest. `error` is set where its second half failed."""

    name: str
    uuid: str
    changed: bool
    config: str
    live: str
    why: str
    error: VirtrngError | None = None


def enable(
    guest: Guest, settings: DomainSettings, request: Request, scope: Scope = BOTH, sleep: Sleep = time.sleep
) -> Outcome:
    """Give `guest` the device that policy wants, in its definition and while it runs.

    Raises Refused where it can have none, and what libvirt raises for the first
    half; a failure of the second is in the outcome, with what became of the first.
    """
    halves = _halves(guest, scope)
    device, wish = _wanted(guest, halves[0].before, settings, request)
    _refuse_vain(guest, halves, device)
    return _apply(guest, halves, wish, lambda half: _give(half, device, sleep))


def disable(guest: Guest, scope: Scope = BOTH, *, forget: bool = False, sleep: Sleep = time.sleep) -> Outcome:
    """Take our device away and record that the guest does not want one; with `forget` leave no trace.

    A device that is not ours stays. Raises as `enable` does.
    """
    halves, wish = _halves(guest, scope), None if forget else Wish(wanted=False)
    _refuse_vain(guest, halves, None)
    return _apply(guest, halves, wish, lambda half: _take(half, sleep))


def preview_enable(guest: Guest, settings: DomainSettings, request: Request, scope: Scope = BOTH) -> str:
    """Return what `enable` would change, as a unified diff; changes nothing. Raises as `enable` does."""
    halves = _halves(guest, scope)
    device, wish = _wanted(guest, halves[0].before, settings, request)
    _refuse_vain(guest, halves, device)

    def change(half: Half, root: xml.Element) -> None:
        transform.record(root, wish)
        if _obstacle(half, device):
            return
        if half.before.ours:
            transform.retarget(root, device)
        elif not half.before.foreign:
            transform.add(root, device if half.live else transform.placed(device, half.before))

    return "".join(_diff(half, change) for half in halves)


def preview_disable(guest: Guest, scope: Scope = BOTH, *, forget: bool = False) -> str:
    """Return what `disable` would change, as a unified diff; changes nothing. Raises as `disable` does."""
    halves = _halves(guest, scope)
    _refuse_vain(guest, halves, None)

    def change(half: Half, root: xml.Element) -> None:
        transform.record(root, None if forget else Wish(wanted=False))
        if not _obstacle(half, None):
            transform.remove(root)

    return "".join(_diff(half, change) for half in halves)


def _content(guest: Guest, *, live: bool) -> bytes:
    return guest.running() if live else guest.definition()


def _halves(guest: Guest, scope: Scope) -> list[Half]:
    """Return the halves that exist and may be touched, the definition first. Raises Refused."""
    present = [(False, scope.config and guest.persistent), (True, scope.live and guest.active)]
    halves = [
        Half(guest, live, facts.of(xml.parse(_content(guest, live=live)))) for live, there in present if there
    ]
    if halves:
        return halves
    if scope.live and not scope.config:
        raise Refused(guest.name, "it is not running", "leave out --live to change its definition")
    raise Refused(
        guest.name, "it has no definition: it is transient", "leave out --config to change it as it runs"
    )


def _wanted(
    guest: Guest, before: Facts, settings: DomainSettings, request: Request
) -> tuple[RngDevice, Wish | None]:
    """Return the device that `guest` should have and the wish that it should hold."""
    device = decide(before, settings, request)
    if isinstance(device, Refusal):
        raise Refused(guest.name, device.why, device.remedy)
    if (
        before.foreign and not before.ours
    ):  # nothing of ours will be there: no wish but that none is forbidden
        return device, None
    held = before.wish or Wish(wanted=True)
    return device, Wish(wanted=True, source=request.source or held.source, rate=request.rate or held.rate)


def _apply(guest: Guest, halves: list[Half], wish: Wish | None, act: Callable[[Half], Step]) -> Outcome:
    recorded = [_record(half, wish) for half in halves]
    steps: dict[bool, Step] = {}
    error: VirtrngError | None = None
    for half in halves:
        try:
            steps[half.live] = act(half)
        except VirtrngError as failure:
            if not steps:
                raise
            error = failure
            steps[half.live] = Step("failed", str(failure))
    return Outcome(
        name=guest.name,
        uuid=guest.uuid,
        changed=any(recorded) or any(step.changed for step in steps.values()),
        config=steps[False].word if False in steps else "untouched" if guest.persistent else "transient",
        live=steps[True].word if True in steps else "untouched" if guest.active else "not-running",
        why=_summary(halves, steps),
        error=error,
    )


def _summary(halves: list[Half], steps: dict[bool, Step]) -> str:
    """Say it once where it is the same for both halves."""
    phrases = list(dict.fromkeys(step.why for step in steps.values()))
    if len(phrases) == 1:
        return f"{' and '.join(half.where for half in halves)}: {phrases[0]}"
    return "; ".join(f"{half.where}: {steps[half.live].why}" for half in halves)


def _record(half: Half, wish: Wish | None) -> bool:
    if half.before.wish == wish:
        return False
    half.guest.record(facts.wish_attributes(wish) if wish else None, live=half.live)
    return True


def _give(half: Half, device: RngDevice, sleep: Sleep) -> Step:
    now = half.before
    if now.ours:
        if now.ours.same_service(device):
            return Step("already", f"has it already ({now.ours})")
        return _exchange(half, now.ours, device, sleep)
    if now.foreign:
        return Step("foreign", _foreign(now.foreign))
    if obstacle := _obstacle(half, device):
        return Step("next-start", f"{obstacle}: from its next start")
    _attach(half, device if half.live else transform.placed(device, now))
    return Step("attached", f"given a virtio-rng ({device}){_last_port(half)}", changed=True)


def _last_port(half: Half) -> str:
    """Say that the owner can plug in nothing more for now, where that is so."""
    if not half.live or half.before.bus is not Bus.PCIE or half.before.free_ports != 1:
        return ""
    return f", on its last free pcie-root-port{' until its next start' if half.guest.persistent else ''}"


def _foreign(device: RngDevice) -> str:
    from_pool = device.source in SAFE_SOURCES or device.backend == "builtin"
    pool = ", fed by the same host pool" if from_pool else ""
    return f"already has a virtio-rng (foreign, {device}){pool}; it is left as it is"


def _obstacle(half: Half, wanted: RngDevice | None) -> str | None:
    """Say why a running guest cannot come to have the device that is wanted of us, or none."""
    now = half.before
    as_wanted = now.ours.same_service(wanted) if now.ours and wanted else now.ours is wanted
    if not half.live or as_wanted or (now.foreign and not now.ours):
        return None
    if not now.hotplug:
        return f"its {now.bus.value} bus takes and gives no device while it runs"
    if now.bus is Bus.PCIE and now.ours and now.ours.address and now.ours.address.is_on_root_complex:
        return "its device is on the root complex, which gives none while it runs"
    if now.bus is Bus.PCIE and not now.ours and now.free_ports == 0:
        return "no pcie-root-port is free"
    return None


def _refuse_vain(guest: Guest, halves: list[Half], wanted: RngDevice | None) -> None:
    """Raise Refused where nothing can be done now, and no definition has it done at the next start."""
    obstacle = _obstacle(halves[0], wanted)
    if obstacle is None:
        return
    if guest.persistent:
        raise Refused(guest.name, obstacle, "leave out --live: its next start follows its definition")
    raise Refused(guest.name, f"{obstacle}, and it is transient", "'virtrng xml' gives its XML the device")


def _attach(half: Half, device: RngDevice) -> None:
    """Attach `device` and see it there; one that another virtrng attached meanwhile will do."""
    try:
        half.guest.attach(xml.text_of(rng.to_element(device)), live=half.live)
    except HypervisorFault:
        if half.read().ours is None:
            raise
    present = half.read().ours
    if present is None or not present.same_service(device):
        raise NotAttached(half.guest.name, half.where, "the device is not in its")


def _exchange(half: Half, old: RngDevice, device: RngDevice, sleep: Sleep) -> Step:
    """Detach the old device and attach the new one at its place: libvirt cannot update an rng."""
    if obstacle := _obstacle(half, device):
        return Step("next-start", f"{obstacle}: {device} from its next start")
    if not _detach(half, sleep):
        return Step("next-start", "the guest has not let go of the old device: from its next start")
    try:
        _attach(half, replace(device, address=old.address))
    except VirtrngError:
        _attach(half, old)
        raise
    return Step("attached", f"changed from {old} to {device}", changed=True)


def _take(half: Half, sleep: Sleep) -> Step:
    if half.before.ours is None:
        if half.before.foreign:
            return Step("foreign", f"its virtio-rng is not ours ({half.before.foreign}) and stays")
        return Step("absent", "has none")
    if obstacle := _obstacle(half, None):
        return Step("next-start", f"{obstacle}: gone at its next start")
    if not _detach(half, sleep):
        return Step("next-start", "the guest has not let go of it: gone at its next start", changed=True)
    return Step("detached", "taken away", changed=True)


def _detach(half: Half, sleep: Sleep) -> bool:
    """Detach our device; return whether it is gone: a definition's goes at once."""
    for patience_s in ASK_AGAIN_AFTER_S:
        try:
            half.guest.detach(ALIAS, live=half.live)
        except HypervisorFault:
            if half.read().ours:
                raise
            return True
        for _ in range(int(patience_s / POLL_S)):
            if half.read().ours is None:
                return True
            sleep(POLL_S)
    return False


def _diff(half: Half, change: Callable[[Half, xml.Element], None]) -> str:
    root = xml.parse(_content(half.guest, live=half.live))
    before = xml.serialise(root).decode().splitlines()
    change(half, root)
    after = xml.serialise(root).decode().splitlines()
    name = f"{half.guest.name}, {half.where}"
    diff = difflib.unified_diff(before, after, name, f"{name}, changed", lineterm="")
    return "".join(f"{line}\n" for line in diff)
