# SPDX-License-Identifier: LGPL-2.1-or-later
"""How everything is shown: tables for people, JSON for scripts, errors on stderr."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virtrng.errors import FileFailed, VirtrngError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Colour only ever repeats what the words say; rich leaves it out where NO_COLOR is set.
_STYLES = {"good": "green", "doubtful": "yellow", "bad": "red", "plain": ""}
_NAME_WIDTH = 8
_MANY = 10


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of `virtrng status`: its name in the first column, and a sentence.

    `tone` is a key of _STYLES. `news` is the sentence without what only time
    changes in it, "" if that is the sentence itself, None if it is never news.
    """

    name: str
    text: str
    tone: str = "plain"
    news: str | None = ""

    @property
    def told(self) -> str | None:
        """What of it is worth a line when it changes."""
        return self.text if self.news == "" else self.news


def plural(count: int, noun: str) -> str:
    """Return `count` with its noun: '1 seed', '2,000 seeds'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Return 'a', 'a and b', 'a, b and c'."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def duration(seconds: float) -> str:
    """Return a length of time in its largest unit of which there are two: '90 s', '3 minutes'."""
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return plural(int(seconds // size), name)
    return f"{int(seconds)} s"


@contextmanager
def to_stdout() -> Iterator[None]:
    """Turn a full disk behind stdout into an error of ours; a reader that has gone is none."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        drop()
        raise FileFailed("stdout", "write to", error.strerror or str(error)) from error


def flush() -> None:
    """Write what is still held back, while errors can still be told. Raises FileFailed or BrokenPipeError."""
    if sys.stdout is not None:  # it is where nothing is open as 1
        with to_stdout():
            sys.stdout.flush()


def drop() -> None:
    """Let what could not be written to stdout go: the interpreter would try again at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def line(text: str = "") -> None:
    """Print one line on stdout, now: it may be read while the command goes on."""
    with to_stdout():
        print(text, flush=True)


def raw(content: bytes) -> None:
    """Print bytes as they are."""
    if sys.stdout is not None:
        with to_stdout():
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()


def note(text: str) -> None:
    """Print one line on stderr, beside whatever goes to stdout."""
    print(text, file=sys.stderr, flush=True)


def document(content: object) -> None:
    """Print one JSON document."""
    line(json.dumps(content, indent=2))


def is_terminal() -> bool:
    """Whether a person watches stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print `rows` under `columns`: fitted to a terminal, unfolded into a pipe."""
    line("\n".join(table_lines(columns, rows)))


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines that `table` prints."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    console = _console()
    with to_stdout(), console.capture() as captured:  # at its end it writes nothing, but it writes
        console.print(shown)
    return [text.rstrip() for text in captured.get().splitlines()]


def facts(found: Sequence[Fact]) -> None:
    """Print a line for each: folded below itself and coloured on a terminal, whole and plain in a pipe."""
    if is_terminal():
        console = _console()
        with to_stdout():
            console.print(_grid(found))
    else:
        for fact in found:
            line(f"{fact.name:<{_NAME_WIDTH}}{fact.text}")


@contextmanager
def live() -> Iterator[Callable[[Sequence[Fact], Sequence[str]], None]]:
    """Give what shows facts and lines below them on the terminal, in the place of those shown before."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    shown = Live(
        console=_console(), auto_refresh=False, redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    with to_stdout(), shown:
        yield lambda found, lines: shown.update(
            Group(_grid(found), Text.from_ansi("\n".join(lines))), refresh=True
        )


def _console() -> "Console":
    from rich.console import Console

    return Console(width=None if is_terminal() else 10_000, soft_wrap=False, highlight=False)


def _grid(found: Sequence[Fact]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid()
    grid.add_column(width=_NAME_WIDTH)
    grid.add_column(overflow="fold")
    for fact in found:
        grid.add_row(Text(fact.name), Text(fact.text, style=_STYLES[fact.tone]))
    return grid


def error(trouble: VirtrngError) -> None:
    """Print the sentence, and the remedy on a line of its own."""
    note(f"virtrng: {trouble}")
    if trouble.remedy:
        note(f"  {trouble.remedy}")


def internal_error(trouble: Exception) -> None:
    """Print what only a bug of ours can cause."""
    note(f"virtrng: internal error: {type(trouble).__name__}: {trouble}")
    note("  please report it with what 'virtrng -v …' prints")


@contextmanager
def bar(total: int, doing: str) -> Iterator[Callable[[], None]]:
    """Give what moves a bar on by one of `total`: on stderr, where that is a terminal and they are many."""
    if total < _MANY or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, redirect_stdout=is_terminal()) as shown:
        task = shown.add_task(doing, total=total)
        yield lambda: shown.advance(task)


def progress(text: str) -> None:
    """Show `text` in place on stderr, where that is a terminal; the next `note` or end of line follows it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def progress_done() -> None:
    """Clear what `progress` showed."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
