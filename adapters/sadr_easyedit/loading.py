"""What an hparams file names, loaded as EasyEdit's ``BaseEditor`` loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sadr_plugin.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import nn

QWEN_TOKENS = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
"""What EasyEdit has Qwen's tokenizers use."""


def load_model(
    hparams: Any,
    attention: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[nn.Module, Any]:
    """The model and tokenizer that ``model_name`` names.

    The hparams' ``fp16`` and ``model_parallel`` count.

    Args:
        hparams: an editor's hparams object.
        attention: the implementation of attention, as transformers names them; None for its own
            choice.
        dtype: torch's name of the weights' type, such as ``"bfloat16"``; None for float16 with
            ``fp16`` and float32 without.
        trust_remote_code: whether code that comes with a model may run; EasyEdit itself lets
            that of some models, by their names.

    Raises `ConfigError` if there is no such model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = hparams.model_name
    spread = bool(getattr(hparams, "model_parallel", False))
    code = {"trust_remote_code": True} if trust_remote_code else {}
    special = QWEN_TOKENS if "qwen" in name.lower() else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name,
            torch_dtype=_dtype(hparams, dtype),
            attn_implementation=attention,
            device_map="auto" if spread else None,
            **code,
        )
        tokenizer = AutoTokenizer.from_pretrained(name, **special, **code)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"model_name: {name!r} cannot be loaded: {error}") from None
    if not special:
        tokenizer.pad_token = tokenizer.eos_token
    model = model.eval()
    return (model if spread else model.to(device_of(hparams))), tokenizer


def _dtype(hparams: Any, name: str | None) -> torch.dtype:
    import torch

    if name is None:
        return torch.float16 if getattr(hparams, "fp16", False) else torch.float32
    found: torch.dtype = getattr(torch, name)
    return found


def device_of(hparams: Any) -> str:
    """Where EasyEdit puts its inputs: ``device``, a number or a name; the CPU without CUDA."""
    import torch

    device = str(hparams.device)
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{device}" if device.isdecimal() else device
