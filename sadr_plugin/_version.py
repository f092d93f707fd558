"""The plugin's own version, as its installation tells it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def plugin_version() -> str:
    """The installed version; ``"not installed"`` for a bare source tree on the path."""
    try:
        return version("sadr-plugin")
    except PackageNotFoundError:
        return "not installed"
