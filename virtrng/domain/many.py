# SPDX-License-Identifier: LGPL-2.1-or-later
"""Among many guests, tell by its text alone a definition that needs nothing: most of them, most of the time.

libvirt writes every definition alike. So one that agrees in all that a decision
depends on with another, which was looked into and needed nothing, needs nothing.
It takes a tenth of the time that looking into it takes.
"""

from dataclasses import replace

from virtrng.config import DomainSettings
from virtrng.domain import reconcile, rules
from virtrng.domain.halves import Scope
from virtrng.domain.hypervisor import Guest
from virtrng.domain.policy import Request
from virtrng.domain.reconcile import Outcome

Key = tuple[str | bool, ...]


class Enabler:
    """Enables many guests by the same settings and the same request; several threads may ask it at a time."""

    def __init__(self, settings: DomainSettings, request: Request) -> None:
        """Remember nothing yet."""
        self._settings = settings
        self._request = request
        # Without a lock: nothing is ever taken out or changed, and twins that are looked into at the same
        # time come to the same.
        self._known: dict[Key, Outcome] = {}

    def enable(self, guest: Guest, scope: Scope) -> Outcome:
        """Do what `reconcile.enable` does. Raises as that does."""
        if guest.active or not guest.persistent or not scope.config:
            return reconcile.enable(guest, self._settings, self._request, scope)
        definition = guest.definition()
        key = self._key(guest, definition.decode(), scope)
        if known := self._known.get(key):
            return replace(known, name=guest.name, uuid=guest.uuid)
        outcome = reconcile.enable(guest, self._settings, self._request, scope, definition=definition)
        if key and outcome.config == "already" and not outcome.changed and not outcome.notes:
            self._known[key] = outcome
        return outcome

    def _key(self, guest: Guest, text: str, scope: Scope) -> Key:
        """Return all that the decision depends on; () where more does than can be told from the text."""
        begin, end = text.find("<rng "), text.rfind("</rng>")
        # The model depends on the bus.
        if self._request.model or begin < 0 or text.find("<rng ", begin + 1) >= 0:
            return ()
        device = text[begin:end]
        address = device.find("<address ")  # wherever it is plugged in
        if address >= 0:
            device = device[:address] + device[device.find("/>", address) + 2 :]
        metadata = text[text.find("<metadata>") : text.rfind("</metadata>")]
        named = (rules.is_named(rule, guest.name, guest.uuid) for rule in self._settings.rules)
        return (text[: text.find(">")], metadata, device, scope.named, *named)
