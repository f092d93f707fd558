"""The hparams file of a command."""

from __future__ import annotations

from pathlib import Path

from ..adapter import HparamsSummary
from ..errors import ConfigError
from ..plugins import editor_names, plugin_manager


def summary_of(file: Path) -> HparamsSummary:
    """Return what an adapter reads from the file.

    Raises:
        ConfigError: no adapter knows the file, or an adapter finds an error in it.
    """
    summary: HparamsSummary | None = plugin_manager().hook.sadr_read_hparams(file=file)
    if summary is None:
        raise ConfigError(
            f"{file}: no installed adapter knows it as an hparams file of an attached editor; "
            f"SADR works with {editor_names()}"
        )
    if not isinstance(summary, HparamsSummary):
        raise ConfigError(
            f"{file}: sadr_read_hparams returned {type(summary).__name__}, not an HparamsSummary"
        )
    return summary
