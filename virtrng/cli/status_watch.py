# SPDX-License-Identifier: LGPL-2.1-or-later
"""The watcher's part of `virtrng status`: does it run, and what does it do about the guests."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from virtrng import watch_status
from virtrng.cli.output import Fact, plural
from virtrng.errors import BadStatus
from virtrng.watch_status import Noted, WatchStatus

# So many guests are named below its line; --check names all.
NOTED_MAX = 5

CONTESTED = "contested"

# The standings of WatchStatus in which it leaves guests alone, and why.
_LEFT_ALONE = {
    "before": "there before it",
    "unwanted": "disabled",
    "foreign": "with a device of somebody else",
    "elsewhere": "another program's",
    "off": "by manage = off",
    CONTESTED: CONTESTED,
}
# Those that do not pass by themselves, as a busy guest's does.
_TROUBLE = (CONTESTED, "refused", "failed")
_LOG = "its log tells more: journalctl -u virtrng-watch"


@dataclass(frozen=True, slots=True)
class Watcher:
    """What was found at one moment."""

    holder: str | None  # the watcher that runs
    last: WatchStatus | None  # what it last wrote
    broken: BadStatus | None  # why that could not be read


def look(watch_dir: Path) -> Watcher | None:
    """Look for a watcher, or what one has left; None where there never was any. Never raises."""
    last, broken = None, None
    try:
        last = watch_status.read(watch_dir)
    except BadStatus as error:
        broken = error
    holder = watch_status.holder(watch_dir, last)
    return Watcher(holder, last, broken) if holder or last or broken else None


def document(watcher: Watcher | None) -> dict[str, object] | None:
    """Return the part of the JSON document that is about it."""
    if watcher is None:
        return None
    return {
        "running": watcher.holder is not None,
        "holder": watcher.holder,
        "status": dataclasses.asdict(watcher.last) if watcher.last else None,
    }


def facts(watcher: Watcher | None) -> Iterator[Fact]:
    """Give what a person reads: its line, and below it the guests that are not as they should be."""
    if watcher is None:
        return
    if watcher.broken:
        holder = f"{watcher.holder}; it is " if watcher.holder else ""
        yield Fact("watcher", f"{holder}not known what it does: {watcher.broken}", "doubtful")
    elif watcher.holder is None:
        yield Fact("watcher", "not running ('systemctl start virtrng-watch')", "bad")
    elif watcher.last is None:
        yield Fact("watcher", f"{watcher.holder}; it has written no status", "doubtful")
    elif watcher.last.waiting is not None:
        yield Fact("watcher", f"{watcher.holder} waits: {watcher.last.waiting}", "doubtful")
    else:
        yield Fact("watcher", f"{watcher.holder}: {_figures(watcher.last)}", _tone(*watcher.last.noted))
        yield from _below(watcher.last.noted)


def _figures(last: WatchStatus) -> str:
    counts = {standing: int(count) for standing, count in last.guests.items() if count}
    managed = counts.pop("managed", 0)
    left = {words: counts.pop(one) for one, words in _LEFT_ALONE.items() if one in counts}
    parts = [f"{plural(managed, 'guest')} managed"]
    if left:
        why = ", ".join(f"{count:,} {words}" for words, count in left.items())
        parts.append(f"{sum(left.values()):,} left alone ({why})")
    parts += [f"{count:,} {standing}" for standing, count in counts.items()]
    if last.without_device:
        parts.append(f"{last.without_device:,} without a device")
    return ", ".join(parts)


def _tone(*noted: Noted) -> str:
    return "doubtful" if any(one.word in _TROUBLE for one in noted) else "plain"


def _below(noted: tuple[Noted, ...]) -> Iterator[Fact]:
    for one in noted[:NOTED_MAX]:
        yield Fact("", _told(one), _tone(one))
    if len(noted) > NOTED_MAX:
        yield Fact("", f"and {len(noted) - NOTED_MAX:,} more", news=None)


def _told(one: Noted) -> str:
    named = one.why.startswith((f"{one.name}: ", f"{one.name} is "))
    return one.why if named else f"{one.name}: {one.why}"


def problems(watcher: Watcher | None) -> Iterator[str]:
    """Give each thing that is not as it should be: one line, with the remedy behind the semicolon."""
    if watcher is None:
        return
    if watcher.broken:
        yield f"{watcher.broken}; {watcher.broken.remedy}"
    elif watcher.holder is None:
        yield "no watcher runs; start it: systemctl start virtrng-watch"
    elif watcher.last is None:
        yield f"the watcher has written no status; {_LOG}"
    else:
        if watcher.last.waiting is not None:
            yield f"the watcher waits: {watcher.last.waiting}; {_LOG}"
        yield from (f"{_told(one)}{_remedy(one)}" for one in watcher.last.noted if one.word in _TROUBLE)


def _remedy(one: Noted) -> str:
    if one.word == "refused":
        return f"; 'virtrng disable {one.name}' if it is to have none"
    if one.word != CONTESTED:
        return f"; {_LOG}"
    command = f"'virtrng enable {one.name}'"
    return "" if command in one.why else f"; {command} gives it back"
