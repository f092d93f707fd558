"""The terminal a command writes to, and the packages it runs with."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TextIO


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep what the toolkit prints, and bars of its own, off the terminal.

    Warnings come through, whoever gives them, and so does what is logged.
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
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        warnings.showwarning = show
        logging.lastResort = last_resort


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """The packages' installed versions; None for one that is not installed."""
    found: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
