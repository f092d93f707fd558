"""Where a model computes attention, and one row of it from the call's inputs.

A transformers attention module ends in ``attention_interface(module, query, key, value, mask,
…)``, whichever implementation is behind that name. Query and key there are final (rotated,
normalised), so a row needs nothing else: softmax(q_t · Kᵀ · scaling + mask_t). That costs
O(tokens · head size) for each head and works where the kernel itself returns no weights.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ConfigError, UnsupportedModelError

INTERFACE_CALL = re.compile(r"\battention_interface\(")
"""The call an attention module must hold for its rows to be seen."""


@dataclass(frozen=True)
class AttentionCall:
    """The inputs of one call to an attention interface, named.

    Attributes:
        query: [batch, heads, tokens, head size], as the kernel gets it.
        key: [batch, key heads, tokens, head size]; heads is a multiple of key heads.
        mask: None (causal), additive or boolean [batch or 1, heads or 1, tokens, tokens], or
            1 for real tokens [batch, tokens].
        scaling: factor on the scores; None is 1/√(head size).
        softcap: scores become ``softcap · tanh(scores / softcap)`` (Gemma 2).
        sinks: an extra score for each head that takes probability and attends nowhere
            (gpt-oss), [heads].
        sliding_window: how many tokens back a token sees, itself included, where the mask
            does not say so already.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    sliding_window: int | None = None

    @classmethod
    def from_inputs(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> AttentionCall:
        """Read the arguments of ``attention_interface(module, query, key, value, mask, …)``."""
        names = ("module", "query", "key", "value", "attention_mask")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        mask = given.get("attention_mask")
        if mask is not None and not isinstance(mask, Tensor):
            raise UnsupportedModelError(
                f"{type(given['module']).__name__} masks attention with a "
                f"{type(mask).__name__}, which cannot be read a row at a time; load the model "
                'with attn_implementation="sdpa" or "eager"'
            )
        return cls(
            query=given["query"],
            key=given["key"],
            mask=mask,
            scaling=given.get("scaling", _own_scaling(given["module"], given["query"])),
            softcap=given.get("softcap"),
            sinks=given.get("s_aux"),
            sliding_window=given.get("sliding_window"),
        )


def _own_scaling(module: nn.Module, query: Tensor) -> float | None:
    """The scaling of a module that leaves it to its eager kernel, as GPT-2 does; None if 1/√d.

    Its options to scale by the layer's number, or not at all, are the eager kernel's alone.
    """
    config = getattr(module, "config", None)
    if getattr(config, "_attn_implementation", None) != "eager":
        return None
    scaling = query.shape[-1] ** -0.5 if getattr(config, "scale_attn_weights", True) else 1.0
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        scaling /= float(getattr(module, "layer_idx", 0)) + 1
    return scaling


def attention_rows(call: AttentionCall, position: Tensor) -> Tensor:
    """The attention each prompt pays from its own position, in every head.

    Args:
        call: inputs of the attention interface; its first ``len(position)`` batch rows count.
        position: index of the attending token in each prompt, [prompts].

    Returns:
        Probabilities in float32, [prompts, heads, tokens], differentiable in query and key.
        Equal to the model's own eager weights, before dropout.
    """
    count = len(position)
    key = call.key[:count].float()
    prompt = torch.arange(count, device=key.device)
    position = position.to(key.device)
    query = call.query[prompt, :, position].float()
    heads, key_heads = query.shape[1], key.shape[1]
    query = query.view(count, key_heads, heads // key_heads, -1)
    scaling = call.scaling if call.scaling is not None else query.shape[-1] ** -0.5
    scores = (query @ key.transpose(-1, -2)).flatten(1, 2) * scaling
    if call.softcap is not None:
        scores = torch.tanh(scores / call.softcap) * call.softcap
    scores = _masked(scores, call, prompt, position)
    if call.sinks is None:
        return scores.softmax(-1)
    sinks = call.sinks.float().view(1, -1, 1).expand(count, -1, 1)
    return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]


def _masked(scores: Tensor, call: AttentionCall, prompt: Tensor, position: Tensor) -> Tensor:
    """``scores`` [prompts, heads, tokens] with the tokens out of sight at −∞."""
    tokens = scores.shape[-1]
    mask = call.mask
    if mask is not None and mask.dim() == 4:
        # One row for each prompt; a dimension of 1 stands for all prompts, heads or positions.
        rows = prompt if mask.shape[0] > 1 else torch.zeros_like(prompt)
        queries = position if mask.shape[2] > 1 else torch.zeros_like(position)
        row = mask[rows, :, queries, :tokens]
        if row.dtype == torch.bool:
            scores = scores.masked_fill(~row, -torch.inf)
        else:
            scores = scores + row.float()
        if mask.shape[2] > 1:
            return scores
        mask = None  # a mask of padding alone, as GPT-2 has: causality comes on top
    index = torch.arange(tokens, device=scores.device)
    distance = position.unsqueeze(-1) - index
    visible = distance >= 0
    if call.sliding_window is not None:
        visible &= distance < call.sliding_window
    if mask is not None:
        visible &= mask[: len(prompt), :tokens].bool()
    return scores.masked_fill(~visible.unsqueeze(1), -torch.inf)


def attention_module(layer: nn.Module) -> nn.Module | None:
    """The one module inside ``layer`` whose forward calls the attention interface.

    It decides by reading the source of each submodule's ``forward``, so it knows no
    architecture by name. None when no submodule, or more than one, has the call.
    """
    found = [module for module in layer.modules() if _calls_interface(type(module))]
    return found[0] if len(found) == 1 else None


def _calls_interface(module_class: type[nn.Module]) -> bool:
    try:
        source = inspect.getsource(module_class.forward)
    except (OSError, TypeError):
        return False
    return INTERFACE_CALL.search(source) is not None


def layer_modules(model: nn.Module, layer_template: str) -> list[nn.Module]:
    """The model's layers, in order.

    Args:
        model: the model that is edited.
        layer_template: where they are, e.g. ``"model.layers.{}"`` (EasyEdit's
            ``layer_module_tmp``).

    Raises:
        ConfigError: the template names no list of modules in this model.
    """
    path, hole, rest = layer_template.partition(".{}")
    try:
        parent = model.get_submodule(path) if hole and not rest else None
    except AttributeError:
        parent = None
    if not isinstance(parent, nn.ModuleList) or len(parent) == 0:
        raise ConfigError(
            f"layer_module_tmp: {layer_template!r} names no list of layers in "
            f"{type(model).__name__}"
        )
    return list(parent)


def drifting_layers(
    edited: int, total: int, wanted: tuple[int, ...] | None, model_name: str
) -> list[int]:
    """The layers to restrict: those after the edited one, of them only the ``wanted``.

    Raises `ConfigError` for a layer outside the model and when none is left.
    """
    if not 0 <= edited < total:
        raise ConfigError(f"the edited layer {edited} is outside {model_name} (0-{total - 1})")
    outside = [layer for layer in wanted or () if layer >= total]
    if outside:
        raise ConfigError(
            f"sadr.layers: {outside[0]} is outside {model_name}, whose layers are 0-{total - 1}"
        )
    layers = [layer for layer in range(edited + 1, total) if wanted is None or layer in set(wanted)]
    if not layers:
        raise ConfigError(
            f"sadr.layers: no layer after the edited one ({edited}) is among them, and only "
            f"those can drift; {model_name} has layers 0-{total - 1}"
        )
    return layers
