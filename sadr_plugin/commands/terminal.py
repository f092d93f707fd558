"""The terminal of a command: silence, progress bars, and tables."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hide what the toolkit prints, and its progress bars.

    All warnings and all log messages still appear.
    """
    terminal, show = sys.stderr, warnings.showwarning

    def shown(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        show(message, category, filename, lineno, terminal if file is None else file, line)

    last_resort, logging.lastResort = logging.lastResort, logging.StreamHandler(terminal)
    logging.lastResort.setLevel(logging.WARNING)
    warnings.showwarning = shown
    try:
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            yield
    finally:
        warnings.showwarning = show
        logging.lastResort = last_resort


def progress(console: Console, remaining: bool = False) -> Progress:
    """Return progress bars with counts and the elapsed time, or the remaining time."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    last = TimeRemainingColumn() if remaining else TimeElapsedColumn()
    return Progress(*columns, last, console=console)


def show_rows(
    console: Console, title: str, rows: Sequence[Sequence[str]], header: Sequence[str] = ()
) -> None:
    """Show a table of texts."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    shown = Table(
        *header, title=escape(title), box=box.SIMPLE, padding=(0, 0, 0, 1), show_header=bool(header)
    )
    for row in rows:
        shown.add_row(*map(escape, row))
    console.print(shown)
