"""The conditions under which a forward may run in part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

CACHE_KEYS = ("past_key_values", "cache")
"""A model's argument and output for keys of earlier tokens: until transformers 5.23, and since."""

CAPTURING = "transformers.utils.output_capturing"
"""The module of hooks that transformers 5 leaves on a model after a request for attention weights.

These hooks do nothing until the next such request.
"""


def is_hooked(module: nn.Module) -> bool:
    """Whether a hook watches or changes what goes through a module."""
    registered = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return any(
        getattr(hook, "__module__", None) != CAPTURING
        for hooks in registered
        for hook in hooks.values()
    )


class Conditions:
    """The conditions for a forward to run in part. They are checked before each forward.

    Args:
        model: the model that is edited.
        below: the layers that would be left out.
    """

    def __init__(self, model: nn.Module, below: Sequence[nn.Module]) -> None:
        embeddings: Any = getattr(model, "get_input_embeddings", lambda: None)()
        left_out = [part for part in (*below, embeddings) if isinstance(part, nn.Module)]
        self._config = getattr(model, "config", None)
        # Lists are stored because walking through a model takes longer than the checks of its
        # parts.
        self._parameters = [(p, p._version) for p in model.parameters()]
        self._modules = list(model.modules())
        self._left_out = [(part, list(part.modules())) for part in left_out]

    def objection(self, inputs: Mapping[str, Any]) -> str | None:
        """Return why the forward must run in full, in words. None if it may run in part.

        Args:
            inputs: the arguments of the model's forward, by name.
        """
        if any(parameter.requires_grad for parameter, _ in self._parameters):
            return "its parameters require gradients"
        if any(parameter._version != version for parameter, version in self._parameters):
            return "its weights change from step to step"
        if any(inputs.get(name) is not None for name in CACHE_KEYS):
            return "it is given keys and values of earlier tokens"
        for name in ("output_attentions", "output_hidden_states", "output_router_logits"):
            if inputs.get(name) or getattr(self._config, name, False):
                return f"it is asked for more than its logits ({name})"
        if getattr(_text_config(self._config), "num_kv_shared_layers", 0):
            return "some of its layers take the keys of others"
        if not caches_may_skip_layers():
            return "this release of transformers cannot leave out layers; take 4.46 or later"
        if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
            return "a hook is on every module of the process"
        for part, modules in self._left_out:
            if any(map(is_hooked, modules)):
                return f"a hook is on or in a {type(part).__name__} below the edited layer"
        if any(m.training and getattr(m, "gradient_checkpointing", False) for m in self._modules):
            return "it recomputes its forward for gradients (gradient checkpointing)"
        return None


@cache
def caches_may_skip_layers() -> bool:
    """Whether the cache of transformers takes the keys of a layer if those below gave none.

    Until 4.45, it took the layer for the next one, and failed.
    """
    from transformers import cache_utils

    keys = torch.zeros(1, 1, 1, 1)
    try:
        cache_utils.DynamicCache().update(keys, keys, 1)
    except IndexError:
        return False
    return True


def random_state() -> list[Tensor]:
    """Return the states of torch's random generators. A forward that draws numbers changes them."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return states


def _text_config(config: Any) -> Any:
    get = getattr(config, "get_text_config", None)
    return config if get is None else get()
