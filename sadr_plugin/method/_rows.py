"""The attention rows of an edit: where they are watched, in one tensor, and their penalty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pluggy import HookRelay
from torch import Tensor, nn

from ..adapter import Edit
from ..attention._layers import Watch
from ..config import SadrConfig
from ..terms import Positions


def watch_of(edit: Edit, config: SadrConfig) -> Watch:
    """Return where the attention of an edit is watched."""
    return Watch(edit.model, edit.layer_template, edit.layer, config.layers)


def penalise(
    hooks: HookRelay, config: SadrConfig, baseline: Tensor, current: Tensor, positions: Positions
) -> tuple[Tensor, Tensor]:
    """Ask the hooks about the rows.

    Returns:
        The penalty before γ, and the mask of the heads that it restricts.
    """
    given = {
        "baseline": baseline,
        "current": current,
        "subject_index": positions.subject,
        "config": config,
    }
    with torch.no_grad():
        selected: Tensor = hooks.sadr_selected_heads(**given)
    penalty: Tensor = hooks.sadr_penalty(**given, selected=selected)
    return penalty, selected


def stack_layers(rows: Sequence[Tensor], device: torch.device) -> Tensor:
    """Stack the rows of every layer into one tensor, [layers, prompts, heads, tokens].

    A layer with fewer heads is filled up with rows of zeros. They neither drift nor count.
    """
    heads = max(layer.shape[1] for layer in rows)
    return torch.stack(
        [
            nn.functional.pad(layer.to(device), (0, 0, 0, heads - layer.shape[1]))
            if layer.shape[1] < heads
            else layer.to(device)
            for layer in rows
        ]
    )
