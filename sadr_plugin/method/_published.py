"""The method as published: the built-in answers to the hooks, asked after all others.

Torch is imported by the answers, not by this module: the plugin manager is made before torch is
there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..config import SadrConfig
    from ._running import LossTerm, RunningEdit


class PublishedMethod:
    """The answers of the paper's method."""

    @hookimpl(trylast=True)
    def sadr_attention_module(self, layer: nn.Module) -> nn.Module | None:
        """The module whose source has the call."""
        from ..attention._modules import attention_module

        return attention_module(layer)

    @hookimpl(trylast=True)
    def sadr_selected_heads(
        self, baseline: Tensor, current: Tensor, subject_index: Tensor, config: SadrConfig
    ) -> Tensor:
        """The heads that over-attend to the subject, or all."""
        import torch

        from .penalty import selected_heads

        if config.select_heads:
            return selected_heads(baseline, current, subject_index)
        return torch.ones(baseline.shape[:-1], dtype=torch.bool, device=baseline.device)

    @hookimpl(trylast=True)
    def sadr_penalty(
        self, baseline: Tensor, current: Tensor, selected: Tensor, config: SadrConfig
    ) -> Tensor:
        """The penalty of the paper."""
        from .penalty import drift_penalty

        return drift_penalty(baseline, current, selected, config.divergence)

    @hookimpl(tryfirst=True)
    def sadr_loss_terms(self, running: RunningEdit, config: SadrConfig) -> list[LossTerm]:
        """The drift of attention; and beyond the paper, what ``sadr.keep`` asks for."""
        from ..keep._terms import keep_terms
        from ._drift import DriftTerm

        kept = [] if config.keep is None else keep_terms(running, config.keep)
        return [DriftTerm(running, config), *kept]
