# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guests' part of `virtrng status`: what each has, in its definition and while it runs."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from virtrng.cli import output
from virtrng.config import Config
from virtrng.domain import manage, survey
from virtrng.domain.hypervisor import Hypervisor
from virtrng.domain.rng import RngDevice
from virtrng.domain.standing import State
from virtrng.domain.survey import Survey
from virtrng.errors import BadMemory, FileFailed, HypervisorFault, NoSuchDomain, Refused, VirtrngError


@dataclass(frozen=True, slots=True)
class Guests:
    """What libvirt told: of each guest what JSON shows of it, and why it told no more, if so."""

    found: tuple[dict[str, object], ...]
    trouble: VirtrngError | None

    def document(self) -> dict[str, object]:
        """Return the part of the JSON document that is about guests."""
        return {
            "guests": list(self.found) if self.trouble is None else None,
            "guests_error": str(self.trouble) if self.trouble else None,
        }

    def lines(self) -> list[str]:
        """Return what a person reads below the host's own lines."""
        if self.trouble:
            return [f"{'guests':<8}not known: {self.trouble}"]
        if not self.found:
            return [f"{'guests':<8}none"]
        rows = [_row(guest) for guest in self.found]
        columns = ("GUEST", "STATE", "IN ITS DEFINITION", "WHILE IT RUNS", "WANTED", "DIFFERS")
        width = len(columns) if any(row[-1] for row in rows) else len(columns) - 1
        return ["", *output.table_lines(columns[:width], [row[:width] for row in rows])]

    def news(self) -> list[str]:
        """Return a line for each guest, which changes only if the guest does."""
        if self.trouble:
            return self.lines()
        return [
            f"{'guest':<8}{guest['name']}: "
            + (f"running with {_devices(guest['live'])}" if guest["running"] else "off")
            + f"; in its definition {_devices(guest['definition'])}"
            for guest in self.found
        ]

    def problems(self) -> list[str]:
        """Return what is not as it should be: one line each, with the remedy in it."""
        if self.trouble:
            return [f"the guests are not known: {self.trouble}; {self.trouble.remedy}"]
        return [
            f"{guest['name']}: {one['what']}; {one['remedy']}"
            for guest in self.found
            for one in _differences(guest)
        ]


def look(uri: str | None, settings: Config) -> Guests:
    """Ask libvirt; never raises, but tells in `trouble` why it could not be asked."""
    found: list[Survey] = []
    try:
        with Hypervisor(uri, readonly=True) as hypervisor:
            remembered = _remembered(hypervisor, settings.paths.state_dir)
            for guest in hypervisor.guests():
                with contextlib.suppress(NoSuchDomain, Refused):  # it has gone since it was listed
                    found.append(survey.of(guest, settings.domains, remembered))
    except VirtrngError as error:
        return Guests(tuple(map(_shown, found)), error)
    return Guests(tuple(map(_shown, found)), None)


def _remembered(hypervisor: Hypervisor, state_dir: Path) -> frozenset[str] | None:
    """Return the guests that were there before the watcher; None without one, or where that is not known."""
    if not any(state_dir.glob("*.json")):
        return None  # what libvirt would be asked for takes it a while when it has just started
    with contextlib.suppress(BadMemory, FileFailed, HypervisorFault):  # the watcher tells of that
        return manage.recall(state_dir, manage.host_uuid(hypervisor.capabilities()))
    return None


def _differences(guest: dict[str, object]) -> list[dict[str, str]]:
    differs = guest["differs"]
    assert isinstance(differs, list)  # noqa: S101  made below
    return differs


def _shown(one: Survey) -> dict[str, object]:
    return {
        "name": one.name,
        "uuid": one.uuid,
        "running": one.live is not None,
        "state": one.state.value,
        "definition": [_device(device) for device in one.definition.rngs] if one.definition else [],
        "live": [_device(device) for device in one.live.rngs] if one.live else None,
        "wanted": one.wanted,
        "policy": one.policy,
        "differs": [{"what": each.what, "remedy": each.remedy} for each in one.differs],
    }


def _row(guest: dict[str, object]) -> tuple[str, ...]:
    return (
        str(guest["name"]),
        "off" if guest["state"] == State.OFF.value else str(guest["state"]),
        _devices(guest["definition"]),
        _devices(guest["live"]) if guest["running"] else "",
        str(guest["policy"]),
        "; ".join(one["what"] for one in _differences(guest)),
    )


def _device(device: RngDevice) -> dict[str, object]:
    return {
        "ours": device.ours,
        "model": device.model,
        "backend": device.backend,
        "source": device.source,
        "rate_bytes": device.rate.bytes if device.rate else None,
        "rate_period_ms": device.rate.period_ms if device.rate else None,
        "text": str(device),
    }


def _devices(devices: object) -> str:
    assert isinstance(devices, list)  # noqa: S101  made above
    return "; ".join(f"{'ours' if one['ours'] else 'foreign'}: {one['text']}" for one in devices) or "none"
