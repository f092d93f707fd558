"""Load a model and its tokenizer for an adapter's editor."""

from __future__ import annotations

from pathlib import Path
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
    named_by: str = "model_name",
) -> tuple[nn.Module, Any]:
    """Load a causal language model of transformers and its tokenizer.

    Args:
        name: a folder, or a model's name on the hub.
        options: the user's options. `EditorOptions.dtype` overrides ``dtype``.
        dtype: torch's name of the type of the weights.
        device: the device of the model. None takes the first GPU, or the CPU without one.
        spread: whether accelerate places the layers on the available devices. ``device`` is then
            ignored.
        attention: the attention implementation, with transformers' name. None takes transformers'
            choice. See `attention_for_edits`.
        special_tokens: special tokens of the tokenizer, such as ``{"pad_token": "<|endoftext|>"}``.
            None takes the end of text as padding.
        named_by: the key or the option that names the model, for the error.

    Raises:
        ConfigError: the model cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Without the answer, transformers would ask on the terminal whether to run a model's code.
    code = {"trust_remote_code": options.trust_remote_code}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name,
            torch_dtype=getattr(torch, options.dtype or dtype),
            attn_implementation=attention,
            device_map="auto" if spread else None,
            **code,
        )
        tokenizer = AutoTokenizer.from_pretrained(name, **(special_tokens or {}), **code)
    except Exception as error:  # a missing folder, a hub out of reach, a broken file, no memory
        raise ConfigError(cannot_be_loaded(name, error, named_by)) from error
    if special_tokens is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    if not spread:
        model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return model.eval(), tokenizer


def cannot_be_loaded(name: str, error: Exception, named_by: str = "model_name") -> str:
    """Say that a model cannot be loaded, and why."""
    if name.startswith((".", "/", "~")) and not Path(name).exists():
        return f"{named_by}: there is no folder {name} (seen from {Path.cwd()}); write your own"
    return f"{named_by}: {name!r} cannot be loaded: {str(error).strip() or type(error).__name__}"


def attention_for_edits() -> str | None:
    """Return the attention implementation that is fastest for edits.

    On a CPU, with the few tokens of an edit, eager attention is a quarter faster than the others.

    Returns:
        None for transformers' choice, if there is a GPU.
    """
    import torch

    return None if torch.cuda.is_available() else "eager"
