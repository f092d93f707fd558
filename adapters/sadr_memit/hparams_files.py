"""The research code's hparams files. They are JSON files that do not name their editor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sadr_plugin import HparamsSummary, hookimpl
from sadr_plugin.adapter import edited_layers

NEEDED = {"layers", "layer_module_tmp", "rewrite_module_tmp", "v_num_grad_steps", "v_loss_layer"}
"""The keys that all of these files have."""

TOLD_BY = {
    "nullspace_threshold": ("AlphaEdit", "AlphaEdit.AlphaEdit_hparams:AlphaEditHyperParams"),
    "neuron_threshold": ("NSE", "nse.nse_hparams:NSEHyperParams"),
    "rewrite_module_tmps": ("PMET", "pmet.pmet_hparams:PMETHyperParams"),
    "context_template_length_params": ("ROME", "rome.rome_hparams:ROMEHyperParams"),
    "mom2_update_weight": ("MEMIT", "memit.memit_hparams:MEMITHyperParams"),
}
"""The first of these keys that a file has determines its editor and its class."""


@hookimpl
def sadr_read_hparams(file: Path) -> HparamsSummary | None:
    """Return what such a file says, or None for any other file.

    The model is the file's ``model_name`` or, without one, the file's own name. In both, the
    research code writes ``_`` for the ``/`` in a model's name.

    Raises:
        ConfigError: ``layers`` is not a list of indices.
    """
    content = _content(file)
    if content is None or "alg_name" in content or not content.keys() >= NEEDED:
        return None
    told = next((found for key, found in TOLD_BY.items() if key in content), None)
    if told is None:
        return None
    editor, hparams = told
    name = str(content.get("model_name") or file.stem)
    return HparamsSummary(
        editor=editor,
        model_name=name if "/" in name else name.replace("_", "/", 1),
        layer=edited_layers(file, content["layers"])[-1],
        layer_template=str(content["layer_module_tmp"]),
        sadr=content.get("sadr"),
        hparams=hparams,
        settings=content,
    )


def _content(file: Path) -> dict[str, Any] | None:
    """Return the file's JSON object, or None if the file is another adapter's or nobody's."""
    if file.suffix != ".json":
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
