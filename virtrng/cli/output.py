# SPDX-License-Identifier: LGPL-2.1-or-later
"""How everything is shown: tables for people, JSON for scripts, errors on stderr."""

import json
import sys
from collections.abc import Sequence

from virtrng.errors import VirtrngError


def line(text: str = "") -> None:
    """Print one line on stdout, now: it may be read while the command goes on."""
    print(text, flush=True)


def note(text: str) -> None:
    """Print one line on stderr, beside whatever goes to stdout."""
    print(text, file=sys.stderr, flush=True)


def document(content: object) -> None:
    """Print one JSON document."""
    print(json.dumps(content, indent=2))


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
    width = None if sys.stdout.isatty() else 10_000
    console = Console(width=width, soft_wrap=False, highlight=False)
    with console.capture() as captured:
        console.print(shown)
    for text in captured.get().splitlines():
        print(text.rstrip())


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
