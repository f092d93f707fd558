"""Models that come as PyPI packages. They are converted once, into the user's cache folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Return the folder of converted models.

    It is ``$SADR_CACHE`` if that is set, and otherwise ``sadr`` in the user's cache folder.
    """
    own = os.environ.get("SADR_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sadr"


def converted(name: str, convert: Callable[[Path], None]) -> Path:
    """Return the folder of a converted model. Convert the model first if necessary.

    Args:
        name: the name of the model and of its folder.
        convert: a function that writes the model into a folder.
    """
    folder = cache_folder() / name
    if not (folder / "config.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Convert in another folder, so that an interrupted conversion leaves no partial model.
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            convert(Path(scratch) / "model")
            try:
                os.replace(Path(scratch) / "model", folder)
            except OSError:
                if not (folder / "config.json").exists():
                    shutil.rmtree(folder, ignore_errors=True)
                    os.replace(Path(scratch) / "model", folder)
    return folder


def save_dequantized(model: Any, target: Path) -> None:
    """Save a model that was read from a GGUF file.

    Its weights are no longer quantized. transformers 5 still takes it for quantized, and refuses to
    save it.
    """
    model.is_quantized, model.hf_quantizer = False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
