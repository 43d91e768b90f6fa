# SPDX-License-Identifier: LGPL-2.1-or-later
"""How everything is shown: tables for people, JSON for scripts, errors on stderr."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from virtrng.errors import FileFailed, VirtrngError


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


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print `rows` under `columns`: fitted to a terminal, unfolded into a pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))
    width = None if sys.stdout is not None and sys.stdout.isatty() else 10_000
    console = Console(width=width, soft_wrap=False, highlight=False)
    with to_stdout(), console.capture() as captured:  # at its end it writes nothing, but it writes
        console.print(shown)
    line("\n".join(text.rstrip() for text in captured.get().splitlines()))


def error(trouble: VirtrngError) -> None:
    """Print the sentence, and the remedy on a line of its own."""
    note(f"virtrng: {trouble}")
    if trouble.remedy:
        note(f"  {trouble.remedy}")


def internal_error(trouble: Exception) -> None:
    """Print what only a bug of ours can cause."""
    note(f"virtrng: internal error: {type(trouble).__name__}: {trouble}")
    note("  please report it with what 'virtrng -v …' prints")


def progress(text: str) -> None:
    """Show `text` in place on stderr, where that is a terminal; the next `note` or end of line follows it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def progress_done() -> None:
    """Clear what `progress` showed."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
