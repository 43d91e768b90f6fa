# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `enable` and `disable` share: many guests, and how it went with each."""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from virtrng.cli import output, selection
from virtrng.cli.selection import Chosen
from virtrng.cli.several import Several
from virtrng.domain.halves import Scope
from virtrng.domain.hypervisor import Guest, Hypervisor
from virtrng.domain.reconcile import Outcome
from virtrng.errors import ExitCode, NoHypervisor, Refused, VirtrngError

# How the guests are counted that did not change, by the word for one of their halves.
_COUNTED = {
    "not-wanted": "not wanted by the guest",
    "managed": "left to the program that manages them",
    "foreign": "with a virtio-rng of their own",
    "before": "here before the watcher",
    "off": 'left alone (manage = "off")',
}
_ALREADY = "already so"
_NOT_REACHED = "not reached"
# Of guests that nobody named these are counted, and not told one by one.
_UNREMARKABLE = {
    "already", "absent", "not-wanted", "untouched", "transient", "not-running", "before", "off",
}  # fmt: skip


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that both have."""
    selection.add_arguments(parser)
    parser.add_argument("--config", action="store_true", help="the definition only (default: both)")
    parser.add_argument("--live", action="store_true", help="the running guest only (default: both)")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the difference it would make, change nothing"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def scope(arguments: argparse.Namespace, *, named: bool) -> Scope:
    """Return the halves that --config and --live name: as with virsh, both together mean both."""
    either = arguments.config or arguments.live
    return Scope(config=arguments.config or not either, live=arguments.live or not either, named=named)


@dataclass(slots=True)
class _Report:
    """What is told while it goes on, and what is told at the end."""

    as_json: bool
    done: str
    counts: Counter[str] = field(default_factory=Counter)
    entries: list[dict[str, object]] = field(default_factory=list)
    failures: list[VirtrngError] = field(default_factory=list)

    def failed(self, name: str, error: VirtrngError, uuid: str | None = None) -> None:
        """Tell of a guest with which nothing was done."""
        word = "refused" if isinstance(error, Refused) else "failed"
        self.failures.append(error)
        self.counts[word] += 1
        self.entries.append(_entry(name, uuid, changed=False, config="failed", live="failed", why=str(error)))
        self._tell(error)

    def _tell(self, error: VirtrngError) -> None:
        """Tell of the last failure: once where libvirt has gone, which all that are under way find out."""
        if isinstance(error, NoHypervisor) and any(
            isinstance(one, NoHypervisor) for one in self.failures[:-1]
        ):
            return
        output.error(error)

    def came_of(self, one: Chosen, result: Outcome | VirtrngError) -> None:
        """Tell what became of a guest."""
        if isinstance(result, VirtrngError):
            self.failed(one.guest.name, result, one.guest.uuid)
        else:
            self._outcome(result, named=one.named)

    def _outcome(self, outcome: Outcome, *, named: bool) -> None:
        words = {outcome.config, outcome.live}
        if outcome.error:
            self.failures.append(outcome.error)
            self._tell(outcome.error)
        self.counts[self._counted(outcome)] += 1
        if self.as_json:
            why = "; ".join((outcome.why, *outcome.notes))
            self.entries.append(
                _entry(
                    outcome.name,
                    outcome.uuid,
                    changed=outcome.changed,
                    config=outcome.config,
                    live=outcome.live,
                    why=why,
                )
            )
        elif named or outcome.changed or not words <= _UNREMARKABLE:
            output.line(f"{outcome.name}: {outcome.why}")
            for note in outcome.notes:
                output.line(f"  {note}")

    def _counted(self, outcome: Outcome) -> str:
        if outcome.error:
            return "failed"
        left = next((_COUNTED[word] for word in (outcome.config, outcome.live) if word in _COUNTED), None)
        return left or (self.done if outcome.changed else _ALREADY)

    def end(self, *, named: bool) -> int:
        """Tell the sum, and return the exit status."""
        count = sum(self.counts.values())
        if self.as_json:
            output.document({"domains": self.entries})
        elif count != 1 or not named:
            output.line(self._summary())
        if not self.failures:
            return ExitCode.DONE
        return self.failures[0].exit_code if count == 1 else ExitCode.SOME_FAILED

    def _summary(self) -> str:
        order = [self.done, _ALREADY, *_COUNTED.values(), "refused", "failed", _NOT_REACHED]
        said = [f"{self.counts[word]} {word}" for word in order if self.counts[word]]
        return ", ".join(said) or "nothing to do: there is no such guest"


def for_each(arguments: argparse.Namespace, done: str, act: Callable[[Guest, Scope], Outcome]) -> int:
    """Do `act` to every guest that was chosen, several at a time; they are told in their order.

    One that fails or takes long does not keep the others from theirs. A libvirt that
    has gone ends it, and so does Ctrl-C, once those under way are finished and told;
    the rest are not begun, and counted. `act` is called by several threads. `done` is
    the word for those that changed. Raises KeyboardInterrupt after Ctrl-C.
    """
    selection.check(arguments)
    report = _Report(arguments.json, done)
    several = Several[Chosen, Outcome](
        lambda one: act(one.guest, scope(arguments, named=one.named)), fatal=NoHypervisor
    )
    with Hypervisor(arguments.connect) as hypervisor:
        chosen, missing = selection.choose(hypervisor, arguments)
        for name, error in missing:
            report.failed(name, error)
        with (
            output.bar(len(chosen), arguments.command) as move_on,
            closing(several.each(chosen, move_on)) as results,
        ):
            report.counts[_NOT_REACHED] = len(chosen)
            for result, one in zip(results, chosen, strict=False):  # those that were begun
                report.counts[_NOT_REACHED] -= 1
                report.came_of(one, result)
    code = report.end(named=bool(arguments.domains))
    if several.interrupted:
        raise KeyboardInterrupt
    return code


def preview(arguments: argparse.Namespace, difference: Callable[[Guest, Scope], str]) -> int:
    """Print what would change, guest by guest."""
    selection.check(arguments)
    entries = []
    with Hypervisor(arguments.connect, readonly=True) as hypervisor:
        chosen, missing = selection.choose(hypervisor, arguments)
        failures = [error for _, error in missing]
        for one in chosen:
            try:
                diff = difference(one.guest, scope(arguments, named=one.named))
            except VirtrngError as trouble:
                failures.append(trouble)
                continue
            entries.append({"name": one.guest.name, "uuid": one.guest.uuid, "diff": diff})
            if not arguments.json and (diff or one.named):
                output.line(diff.rstrip("\n") or f"{one.guest.name}: nothing would change")
    for error in failures:
        output.error(error)
    if arguments.json:
        output.document({"domains": entries})
    elif not any(entry["diff"] for entry in entries) and not arguments.domains:
        output.line("nothing would change")
    return _exit_code(failures, len(entries) + len(failures))


def _entry(
    name: str, uuid: str | None, *, changed: bool, config: str, live: str, why: str
) -> dict[str, object]:
    return {"name": name, "uuid": uuid, "changed": changed, "config": config, "live": live, "why": why}


def _exit_code(failures: Sequence[VirtrngError], count: int) -> int:
    if not failures:
        return ExitCode.DONE
    return failures[0].exit_code if count == 1 else ExitCode.SOME_FAILED
