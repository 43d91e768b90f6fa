# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the watcher does about one guest that it looks at."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from virtrng.config import DomainSettings
from virtrng.domain import halves, manage, preview, reconcile
from virtrng.domain.contests import REMOVALS, Contests
from virtrng.domain.detach import Sleep
from virtrng.domain.halves import Half, Scope
from virtrng.domain.hypervisor import Guest
from virtrng.domain.policy import Request
from virtrng.domain.reconcile import Outcome
from virtrng.errors import DomainBusy

SCOPE = Scope(named=False)
_NOTHING_ASKED = Request()
_THERE = {"attached", "already", "replaced"}

# How often a guest is asked, in one run, to let go of a device. Each takes 5 s (QEMU_UNPLUG_TIMEOUT).
ASKS = 5
_NOT_YET = "it has not let go of its device yet"
_NOT = "running guest: it has not let go of its device: from its next start"


@dataclass(frozen=True, slots=True)
class Looked:
    """What became of a guest; `bare` is one that has no virtio-rng at all, ours or another's.

    `rest` is whether it is yet to be changed as it runs.
    """

    outcome: Outcome
    bare: bool
    rest: bool = False


@dataclass(slots=True)
class Steward:
    """Brings guests to policy that nobody named. `settings` and `remembered` may be replaced meanwhile.

    `remembered` are the UUIDs of the guests that were there when the watcher first ran. `sleep` is for the
    time until a guest lets go of a device; without it none is waited for: it is busy, and asked again at the
    next looks.
    """

    settings: DomainSettings
    remembered: Collection[str] = frozenset()
    contests: Contests = field(default_factory=Contests)
    now_s: Callable[[], float] = time.monotonic
    sleep: Sleep | None = time.sleep
    _asked: dict[str, tuple[object, int]] = field(default_factory=dict, init=False)

    def look_after(self, guest: Guest, *, live: bool = True) -> Looked:
        """Give a guest what policy wants, unless it is to be left alone. Raises as reconcile.enable does.

        Its QEMU is asked for nothing unless `live`.
        """
        found = halves.of(guest, SCOPE)
        before, left = found[0].before, self._left(guest, found)
        config = [half for half in found if not half.live]
        clings = (_run(found[-1]), ASKS) == self._asked.get(guest.uuid)
        if not left and not live and not clings and self._plugs(found):
            return Looked(self._give(guest, config), bare=not config, rest=True)
        outcome = left or self._give(guest, config if clings else found)
        if clings and not left:
            outcome = replace(outcome, live="next-start", why=f"{outcome.why}; {_NOT}")
        has_one = before.ours or before.foreign or {outcome.config, outcome.live} & _THERE
        return Looked(outcome, bare=not has_one)

    def forget(self, uuid: str) -> None:
        """A guest that is gone, or defined anew, is another one."""
        self.contests.forget(uuid)
        self._asked.pop(uuid, None)

    def difference(self, guest: Guest) -> str:
        """Return what `look_after` would change, as a unified diff; "" for nothing. Raises as that does."""
        found = halves.of(guest, SCOPE)
        if self._left(guest, found):
            return ""
        return preview.enable_halves(found, self.settings, _NOTHING_ASKED, SCOPE)

    def _left(self, guest: Guest, found: Sequence[Half]) -> Outcome | None:
        before, remedy = found[0].before, f"'virtrng enable {guest.name}' gives it one"
        if passed := reconcile.passed_over(guest, before, SCOPE, giving=True):
            self.contests.forget(guest.uuid)  # its owner has decided
            return passed
        has_ours = any(half.before.ours for half in found)
        if left := manage.left_alone(before, self.settings, self.remembered, has_ours=has_ours):
            return _as_it_is(guest, left.word, f"left alone ({left.briefly}); {remedy}")
        present = {_place(half): half.before.ours is not None for half in found}
        if self.contests.observe(guest.uuid, present, self.now_s()):
            why = f"left alone: its device was removed {REMOVALS} times within an hour; {remedy}"
            return _as_it_is(guest, "contested", why)
        return None

    def _plugs(self, found: Sequence[Half]) -> bool:
        """Whether a device is to be plugged into the guest as it runs, or unplugged."""
        if not any(half.live for half in found):
            return False
        plans = reconcile.plans_to_enable(found, self.settings, _NOTHING_ASKED, SCOPE)
        return any(one.half.live and not one.idle for one in plans)

    def _give(self, guest: Guest, found: Sequence[Half]) -> Outcome:
        if not found:  # it has no definition, and may not be changed as it runs
            return _as_it_is(guest, "untouched", "it has no definition")
        sleep = self.sleep or self._rather_later(found[-1])
        outcome = reconcile.enable_halves(found, self.settings, _NOTHING_ASKED, SCOPE, sleep)
        words = {False: outcome.config, True: outcome.live}
        self.contests.given(guest.uuid, [_place(half) for half in found if words[half.live] in _THERE])
        return outcome

    def _rather_later(self, half: Half) -> Sleep:
        """Return what ends the wait for a guest that does not let go of a device, and counts it."""

        def busy(_: float) -> None:
            run, asks = self._asked.get(half.guest.uuid, (None, 0))
            self._asked[half.guest.uuid] = _run(half), asks + 1 if run == _run(half) else 1
            raise DomainBusy(half.guest.name, _NOT_YET)

        return busy


def _as_it_is(guest: Guest, word: str, why: str) -> Outcome:
    return Outcome(guest.name, guest.uuid, changed=False, config=word, live=word, why=why)


def _run(half: Half) -> object:
    return half.root.get("id"), half.before.rngs


def _place(half: Half) -> str:
    return f"run {half.root.get('id')}" if half.live else "definition"
