"""The method as published: the plugin's own answers to the hooks.

Other plugins answer first. This module does not import torch, because the plugin manager may be
created before torch is imported. Each answer imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..config import SadrConfig
    from ._running import LossTerm, RunningEdit


@hookimpl(trylast=True)
def sadr_attention_module(layer: nn.Module) -> nn.Module | None:
    """Return the module whose source computes attention."""
    from ..attention._modules import attention_module

    return attention_module(layer)


@hookimpl(trylast=True)
def sadr_selected_heads(
    baseline: Tensor, current: Tensor, subject_index: Tensor, config: SadrConfig
) -> Tensor:
    """Select the heads that over-attend to the subject, or all heads."""
    import torch

    from .penalty import selected_heads

    if config.select_heads:
        return selected_heads(baseline, current, subject_index)
    return torch.ones(baseline.shape[:-1], dtype=torch.bool, device=baseline.device)


@hookimpl(trylast=True)
def sadr_penalty(baseline: Tensor, current: Tensor, selected: Tensor, config: SadrConfig) -> Tensor:
    """Compute the penalty of the paper."""
    from .penalty import drift_penalty

    return drift_penalty(baseline, current, selected, config.divergence)


@hookimpl(tryfirst=True)
def sadr_loss_terms(running: RunningEdit, config: SadrConfig) -> list[LossTerm]:
    """Return SADR's term."""
    from ._drift_term import DriftTerm

    return [DriftTerm(running, config)]
