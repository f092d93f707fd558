"""A plugin: loss terms that keep other answers of the model, about the subject and about others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hookspecs import hookimpl

if TYPE_CHECKING:
    from ..config import SadrConfig
    from ..method._running import LossTerm, RunningEdit


@hookimpl(tryfirst=True)
def sadr_loss_terms(running: RunningEdit, config: SadrConfig) -> list[LossTerm]:
    """Return the terms of ``sadr.keep``, which are not part of the paper."""
    from ._keep_terms import keep_terms  # it imports torch

    return [] if config.keep is None else keep_terms(running, config.keep)
