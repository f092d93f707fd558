"""The hparams file that a command is given."""

from __future__ import annotations

from pathlib import Path

from ..adapter import HparamsSummary
from ..errors import ConfigError
from ..plugins import plugin_manager


def summary_of(file: Path) -> HparamsSummary:
    """What an adapter reads in the file.

    Raises `ConfigError` if no adapter knows it, or one finds it wrong.
    """
    summary: HparamsSummary | None = plugin_manager().hook.sadr_read_hparams(file=file)
    if summary is None:
        raise ConfigError(
            f"{file}: no installed adapter knows it as an hparams file of an attached editor"
        )
    return summary
