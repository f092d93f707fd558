"""What an hparams file names, loaded: the hparams object, the model, its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sadr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


def read_yaml(file: Path) -> Any:
    """What a YAML file holds, as plain data; a tag that asks for more is an error.

    Raises `ConfigError`, naming the file, if it cannot be read.
    """
    import yaml

    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except RecursionError:
        raise ConfigError(f"{file}: cannot be read as YAML: it is nested too deeply") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: an impossible date, say
        raise ConfigError(f"{file}: cannot be read as YAML: {error}") from None


def load_hparams(file: Path) -> Any:
    """The hparams object of any editor SADR attaches to, by the file's ``alg_name``.

    Raises `ConfigError`, naming the file, if it cannot be read or names no such editor.
    """
    import importlib

    from .editors import EDIT_POINTS

    if file.suffix != ".yaml":
        raise ConfigError(f"{file}: EasyEdit reads hparams files whose names end in .yaml")
    content = read_yaml(file)
    name = content.get("alg_name") if isinstance(content, dict) else None
    classes = {point.editor: point.hparams for point in EDIT_POINTS}
    if not isinstance(name, str) or name not in classes:
        raise ConfigError(f"{file}: alg_name is {name!r}, not one of {', '.join(classes)}")
    module_name, _, class_name = classes[name].partition(":")
    try:
        module = importlib.import_module(module_name)
        return getattr(module, class_name).from_hparams(str(file))
    except ModuleNotFoundError as error:
        raise ConfigError(f"{file}: the installed EasyEdit has no {name} ({error})") from None
    except TypeError as error:
        raise ConfigError(f"{file}: {error}") from None


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
