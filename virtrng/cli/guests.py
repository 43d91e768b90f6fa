# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `enable` and `disable` share: many guests, one by one, and how it went."""

import argparse
from collections.abc import Callable, Sequence

from virtrng.cli import output
from virtrng.domain.hypervisor import Guest, Hypervisor
from virtrng.domain.reconcile import Outcome, Scope
from virtrng.errors import ExitCode, VirtrngError


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that both have."""
    parser.add_argument("domains", metavar="DOMAIN", nargs="+", help="a guest's name, UUID or id")
    parser.add_argument("--config", action="store_true", help="the definition only (default: both)")
    parser.add_argument("--live", action="store_true", help="the running guest only (default: both)")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the difference it would make, change nothing"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def scope(arguments: argparse.Namespace) -> Scope:
    """Return the halves that --config and --live name: as with virsh, both together mean both."""
    either = arguments.config or arguments.live
    return Scope(config=arguments.config or not either, live=arguments.live or not either)


def for_each(arguments: argparse.Namespace, act: Callable[[Guest], Outcome]) -> int:
    """Do `act` to every guest that was named; one that fails does not keep the others from theirs."""
    entries: list[dict[str, object]] = []
    failures: list[VirtrngError] = []
    with Hypervisor(arguments.connect) as hypervisor:
        for name in dict.fromkeys(arguments.domains):
            try:
                outcome = act(hypervisor.guest(name))
            except VirtrngError as error:
                failures.append(error)
                entries.append(
                    _entry(name, None, changed=False, config="failed", live="failed", why=str(error))
                )
                output.error(error)
                continue
            entries.append(
                _entry(
                    outcome.name,
                    outcome.uuid,
                    changed=outcome.changed,
                    config=outcome.config,
                    live=outcome.live,
                    why=outcome.why,
                )
            )
            if outcome.error:
                failures.append(outcome.error)
                output.error(outcome.error)
            if not arguments.json:
                output.line(f"{outcome.name}: {outcome.why}")
    if arguments.json:
        output.document({"domains": entries})
    return _exit_code(failures, len(entries))


def preview(arguments: argparse.Namespace, difference: Callable[[Guest], str]) -> int:
    """Print what would change, guest by guest."""
    failures: list[VirtrngError] = []
    entries = []
    with Hypervisor(arguments.connect, readonly=True) as hypervisor:
        for name in dict.fromkeys(arguments.domains):
            try:
                guest = hypervisor.guest(name)
                diff = difference(guest)
            except VirtrngError as error:
                failures.append(error)
                output.error(error)
                continue
            entries.append({"name": guest.name, "uuid": guest.uuid, "diff": diff})
            if not arguments.json:
                output.line(diff.rstrip("\n") or f"{guest.name}: nothing would change")
    if arguments.json:
        output.document({"domains": entries})
    return _exit_code(failures, len(entries) + len(failures))


def _entry(
    name: str, uuid: str | None, *, changed: bool, config: str, live: str, why: str
) -> dict[str, object]:
    return {"name": name, "uuid": uuid, "changed": changed, "config": config, "live": live, "why": why}


def _exit_code(failures: Sequence[VirtrngError], count: int) -> int:
    if not failures:
        return ExitCode.DONE
    return failures[0].exit_code if count == 1 else ExitCode.SOME_FAILED
