# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a change would do to a guest, as a unified diff of both its halves. Changes nothing."""

import difflib
from collections.abc import Sequence

from virtrng.config import DomainSettings
from virtrng.domain import halves, reconcile, transform, xml
from virtrng.domain.halves import BOTH, Half, Scope
from virtrng.domain.hypervisor import Guest
from virtrng.domain.plan import Plan
from virtrng.domain.policy import Request


def enable(guest: Guest, settings: DomainSettings, request: Request, scope: Scope = BOTH) -> str:
    """Return what `reconcile.enable` would change; "" for nothing. Raises as that does."""
    return enable_halves(halves.of(guest, scope), settings, request, scope)


def enable_halves(
    found: Sequence[Half], settings: DomainSettings, request: Request, scope: Scope = BOTH
) -> str:
    """Return what `reconcile.enable_halves` would change; "" for nothing. Raises as that does."""
    if reconcile.passed_over(found[0].guest, found[0].before, scope, giving=True):
        return ""
    return _diff(reconcile.plans_to_enable(found, settings, request, scope))


def disable(guest: Guest, scope: Scope = BOTH, *, forget: bool = False) -> str:
    """Return what `reconcile.disable` would change; "" for nothing. Raises as that does."""
    found = halves.of(guest, scope)
    if reconcile.passed_over(guest, found[0].before, scope, giving=False):
        return ""
    return _diff(reconcile.plans_to_disable(found, scope, forget=forget))


def _diff(plans: Sequence[Plan]) -> str:
    return "".join(map(_half, plans))


def _half(plan: Plan) -> str:
    root, name = plan.half.root, f"{plan.half.guest.name}, {plan.half.where}"
    before = xml.serialise(root).decode().splitlines()
    for element in plan.remove:
        xml.remove(element)
    for element in plan.add:
        xml.append(root.find("devices"), element)
    transform.record(root, plan.wish, plan.kept)
    after = xml.serialise(root).decode().splitlines()
    diff = difflib.unified_diff(before, after, name, f"{name}, changed", lineterm="")
    return "".join(f"{line}\n" for line in diff)
