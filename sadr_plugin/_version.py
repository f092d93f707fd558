"""The installed versions of the plugin and of other packages."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version


def plugin_version() -> str:
    """Return the installed version, or ``"not installed"`` for a source tree on the path."""
    try:
        return version("sadr-plugin")
    except PackageNotFoundError:
        return "not installed"


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Return the packages' installed versions, with None for one that is not installed."""
    found: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
