"""The model of an hparams file without its weights, and its tokenizer.

Nothing is downloaded, no code of a model runs, and nothing is asked on the terminal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapter import HparamsSummary
from ..models.notices import quiet_transformers

if TYPE_CHECKING:
    from torch import nn

LOCAL = {"local_files_only": True, "trust_remote_code": False}
"""Without the second answer, transformers would ask on the terminal whether to run code."""

WEIGHTS = ("*.safetensors", "*.bin", "*.bin.index.json", "*.safetensors.index.json")


@dataclass(frozen=True)
class BlankModel:
    """A model built from its configuration. All tensors are on torch's device ``meta``.

    Attributes:
        model: None if it cannot be built.
        tokenizer: None if it cannot be loaded.
        faults: why something cannot be loaded, one text each.
    """

    model: nn.Module | None
    tokenizer: Any
    faults: tuple[str, ...] = ()

    def describe(self) -> str | None:
        """Return the model's class, its layers and its size, in words. None without a model."""
        if self.model is None:
            return None
        config: Any = self.model.config
        layers = getattr(config, "num_hidden_layers", None)
        deep = "" if layers is None else f"{layers} layers, "
        return f"{type(self.model).__name__}, {deep}{in_words(self.parameters())} parameters"

    def parameters(self) -> int:
        """Return the number of the model's parameters. It must have a model."""
        assert self.model is not None
        return sum(parameter.numel() for parameter in self.model.parameters())


def in_words(number: int) -> str:
    """Return a number such as ``"135 million"``."""
    for name, size in (("billion", 10**9), ("million", 10**6)):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,}"


def blank_model(summary: HparamsSummary) -> BlankModel:
    """Build the model that an hparams file names, without weights, and load its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from ..evaluation._loading import cannot_be_loaded

    name = summary.model_name

    def failed(error: Exception) -> str:
        return cannot_be_loaded(name, error).splitlines()[0]

    try:
        source = name if summary.find_model is None else str(summary.find_model())
    except Exception as error:
        return BlankModel(None, None, (failed(error),))
    folder = _folder_of(source)
    if folder is None:
        is_path = source.startswith((".", "/", "~"))
        fault = failed(FileNotFoundError(source)) if is_path else _not_here(name)
        return BlankModel(None, None, (fault,))
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder, **LOCAL)
            config._name_or_path = source  # as if it had been loaded by that name
            with torch.device("meta"):
                model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except Exception as error:
            return BlankModel(None, None, (failed(error),))
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
        except Exception as error:
            return BlankModel(model, None, (f"{failed(error)} (its tokenizer)",))
    if not any(file for pattern in WEIGHTS for file in folder.glob(pattern)):
        return BlankModel(model, tokenizer, (f"model_name: {folder} holds no weights",))
    return BlankModel(model, tokenizer)


def _folder_of(source: str) -> Path | None:
    """Return a model's folder, or that in the cache of the hub's files. None if it has neither.

    Given the name in place of this folder, the hub's library connects even if it is told not to.
    """
    from huggingface_hub import try_to_load_from_cache

    if Path(source).is_dir():
        return Path(source)
    try:
        found = try_to_load_from_cache(source, "config.json")
    except ValueError:  # it cannot be a name on the hub
        return None
    return Path(found).parent if isinstance(found, str) else None


def _not_here(name: str) -> str:
    return (
        f"model_name: {name!r} is no folder (seen from {Path.cwd()}), and the hub's cache on this "
        f"machine does not have it; sadr doctor downloads nothing: `hf download {name}` does"
    )
