"""A model and its tokenizer, for an adapter's editor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..adapter import EditorOptions
from ..errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


def load_model(
    name: str,
    options: EditorOptions,
    *,
    dtype: str = "float32",
    device: str | None = None,
    spread: bool = False,
    attention: str | None = None,
    special_tokens: dict[str, str] | None = None,
) -> tuple[nn.Module, Any]:
    """A causal language model of transformers and its tokenizer.

    Args:
        name: a folder, or a model's name on the hub.
        options: what the user wants; goes before ``dtype``.
        dtype: torch's name of the type of the weights.
        device: where the model goes; None for the first GPU, or the CPU without one.
        spread: let accelerate place the layers where there is room, instead.
        attention: the implementation of attention, as transformers names them; None for
            transformers' choice. See `attention_for_edits`.
        special_tokens: the tokenizer's, such as ``{"pad_token": "<|endoftext|>"}``; None for the
            end of text as padding.

    Raises:
        ConfigError: there is no such model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    code = {"trust_remote_code": True} if options.trust_remote_code else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name,
            torch_dtype=getattr(torch, options.dtype or dtype),
            attn_implementation=attention,
            device_map="auto" if spread else None,
            **code,
        )
        tokenizer = AutoTokenizer.from_pretrained(name, **(special_tokens or {}), **code)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"model_name: {name!r} cannot be loaded: {error}") from None
    if special_tokens is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if not spread:
        model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return model.eval(), tokenizer


def attention_for_edits() -> str | None:
    """The implementation of attention that edits are fastest with; None for transformers' choice.

    On a CPU, and at an edit's few tokens, the eager one is a quarter faster than the others.
    """
    import torch

    return None if torch.cuda.is_available() else "eager"
