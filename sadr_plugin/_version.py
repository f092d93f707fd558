"""The installed version of the plugin."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def plugin_version() -> str:
    """Return the installed version, or ``"not installed"`` for a source tree on the path."""
    try:
        return version("sadr-plugin")
    except PackageNotFoundError:
        return "not installed"
