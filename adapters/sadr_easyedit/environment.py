"""EasyEdit's text editors without the vision stack its whole import wants; what is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TextIO

from sadr_plugin.errors import SadrError

_BARE = ("easyeditor", "easyeditor.models", "easyeditor.editors", "easyeditor.trainer")


def import_text_only() -> None:
    """Make ``easyeditor.models.<method>`` importable without EasyEdit's other dependencies.

    Does nothing if EasyEdit is imported already. Whatever is imported afterwards through these
    packages is EasyEdit's own code; only the star imports of their ``__init__`` are left out,
    for the rest of the process.

    Raises:
        SadrError: EasyEdit is not installed.
    """
    if "easyeditor" in sys.modules:
        return
    found = importlib.util.find_spec("easyeditor")
    if found is None or not found.submodule_search_locations:
        raise SadrError(
            "EasyEdit is not installed: pip install --no-deps easyeditor, or put a checkout of "
            "its main branch on PYTHONPATH"
        )
    root = list(found.submodule_search_locations)
    for name in _BARE:
        inner = name.split(".")[1:]
        spec = ModuleSpec(name, loader=None, is_package=True)
        spec.submodule_search_locations = ["/".join([path, *inner]) for path in root]
        package = ModuleType(name)
        package.__spec__ = spec
        package.__path__ = spec.submodule_search_locations
        sys.modules[name] = package


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
