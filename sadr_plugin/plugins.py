"""The plugin manager: the hookspecs, the built-in answers, and the adapters found installed."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pluggy

from . import hookspecs
from .hookspecs import PROJECT, hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .config import SadrConfig
    from .edit import EditPoint


class BuiltIn:
    """The answers of the method as published, asked last."""

    @hookimpl(trylast=True)
    def sadr_attention_module(self, layer: nn.Module) -> nn.Module | None:
        """The module whose source has the call."""
        from .layers import attention_module

        return attention_module(layer)

    @hookimpl(trylast=True)
    def sadr_selected_heads(
        self, baseline: Tensor, current: Tensor, subject_index: Tensor, config: SadrConfig
    ) -> Tensor:
        """The heads that over-attend to the subject, or all."""
        import torch

        from .loss import selected_heads

        if config.select_heads:
            return selected_heads(baseline, current, subject_index)
        return torch.ones(baseline.shape[:-1], dtype=torch.bool, device=baseline.device)

    @hookimpl(trylast=True)
    def sadr_penalty(
        self, baseline: Tensor, current: Tensor, selected: Tensor, config: SadrConfig
    ) -> Tensor:
        """The penalty of the paper."""
        from .loss import drift_penalty

        return drift_penalty(baseline, current, selected, config.divergence)


@cache
def plugin_manager() -> pluggy.PluginManager:
    """The process's one plugin manager, with every installed adapter loaded.

    Adapters are found by the entry point group ``sadr_plugin``. Register an object of your
    own with ``plugin_manager().register(plugin)``.

    Raises `pluggy.PluginValidationError` for a plugin with a hook that does not exist.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(BuiltIn(), name="built-in")
    manager.load_setuptools_entrypoints(PROJECT)
    manager.check_pending()
    return manager


def edit_points() -> list[EditPoint]:
    """The editors that all plugins declare, in one list."""
    declared = plugin_manager().hook.sadr_edit_points()
    return [point for points in declared for point in points]
