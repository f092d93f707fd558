"""What an hparams file names, loaded: the model and its tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sadr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


def load_model(hparams: Any, attention: str | None = None) -> tuple[nn.Module, Any]:
    """The model and tokenizer that ``model_name`` names, in float32, on the hparams' device.

    Args:
        hparams: an editor's hparams object.
        attention: the implementation of attention, as transformers names them; None for its own
            choice.

    Raises `ConfigError` if there is no such model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = hparams.model_name
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, torch_dtype=torch.float32, attn_implementation=attention
        )
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model_name: {name!r} cannot be loaded: {error}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval().to(device_of(hparams)), tokenizer


def device_of(hparams: Any) -> str:
    """Where EasyEdit puts its inputs: ``device``, a number or a name; the CPU without CUDA."""
    import torch

    device = str(hparams.device)
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{device}" if device.isdecimal() else device
