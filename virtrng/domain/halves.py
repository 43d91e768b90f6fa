# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest has two halves: its definition, and the guest as it runs."""

from dataclasses import dataclass

from virtrng.domain import facts, rng, transform, xml
from virtrng.domain.facts import Facts
from virtrng.domain.hypervisor import Guest
from virtrng.domain.rng import RngDevice
from virtrng.errors import Refused


@dataclass(frozen=True, slots=True)
class Scope:
    """Which halves of a guest may be touched, and whether it was named, not met among many."""

    config: bool = True
    live: bool = True
    named: bool = True


BOTH = Scope()


@dataclass(frozen=True, slots=True)
class Half:
    """The definition of a guest, or the guest as it runs; `root` and what follows were found there.

    `kept` are the foreign devices that its metadata hold to be put back one day.
    """

    guest: Guest
    live: bool
    root: xml.Element
    before: Facts
    kept: tuple[xml.Element, ...]

    @property
    def where(self) -> str:
        """For messages."""
        return "running guest" if self.live else "definition"

    def read(self) -> Facts:
        """Look again. Raises Refused where it runs no more."""
        return facts.of(self._look_again())

    def devices(self) -> list[RngDevice]:
        """Look again, for the devices alone. Raises as `read` does."""
        return [rng.from_element(element) for element in self._look_again().iterfind("devices/rng")]

    def _look_again(self) -> xml.Element:
        root = read(self.guest, live=self.live)
        if self.live and not root.get("id"):  # libvirt then shows its definition
            raise Refused(self.guest.name, "it has stopped meanwhile", "run the same command again")
        return root


def read(guest: Guest, *, live: bool) -> xml.Element:
    """Return the XML of one half, parsed."""
    return xml.parse(guest.running() if live else guest.definition())


def _half(guest: Guest, live: bool, root: xml.Element) -> Half:  # noqa: FBT001
    now = facts.of(root)
    return Half(guest, live, root, now, transform.kept(root) if now.wish else ())


def of(guest: Guest, scope: Scope, definition: bytes | None = None) -> list[Half]:
    """Return the halves that exist and may be touched, the definition first. Raises Refused.

    `definition` is that of the guest, where it is known already.
    """
    persistent = scope.config and guest.persistent
    roots = [(False, xml.parse(definition or guest.definition()))] if persistent else []
    if scope.live and guest.active:
        running = read(guest, live=True)
        # It may have ended since: libvirt then shows its definition, which has no id.
        roots += [(True, running)] if running.get("id") else []
    if roots:
        return [_half(guest, live, root) for live, root in roots]
    if scope.live and not scope.config:
        raise Refused(guest.name, "it is not running", "leave out --live to change its definition")
    raise Refused(
        guest.name, "it has no definition: it is transient", "leave out --config to change it as it runs"
    )
