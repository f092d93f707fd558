"""The null-space projection of AlphaEdit and SPHERE: computed by their own code, once, in a file.

Their own writes it under one name in the current folder whatever ``P_loc`` says, and computes it
anew for each edit as long as there is no file of that name.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sadr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

DEPENDS_ON = (
    "model_name",
    "layers",
    "rewrite_module_tmp",
    "nullspace_threshold",
    "stats_dir",
    "mom2_dataset",
    "mom2_n_samples",
    "mom2_dtype",
)
"""The hparams that a projection is made from; they stand beside it, in a file of JSON."""


def prepare_projection(module: Any, model: nn.Module, tokenizer: Any, hparams: Any) -> None:
    """Have the projection at ``P_loc``, where the editor then reads it.

    Args:
        module: the editor's module with ``get_project``.
        model: the unedited model.
        tokenizer: its tokenizer.
        hparams: the editor's; ``P_loc`` is where the projection is or will be.

    Raises:
        ConfigError: what is there was made for other settings, or there are no layer statistics.
    """
    import torch

    from sadr_plugin.devices import cuda_or_cpu

    from .statistics import Job, missing

    file = Path(hparams.P_loc)
    beside = file.with_name(f"{file.name}.json")
    made_from = {name: getattr(hparams, name) for name in DEPENDS_ON}
    module.P_loaded = False
    if file.exists():
        # One without a note is the toolkit's own, or its authors'.
        if beside.exists() and json.loads(beside.read_text(encoding="utf-8")) != made_from:
            raise ConfigError(f"P_loc: {file} was made for other settings, see {beside}; remove it")
        return
    lacking = missing(Job(model, tokenizer, hparams))
    if lacking:
        raise ConfigError(
            f"P_loc: there is no file {file}, and to compute it layer statistics are missing, of "
            f"{', '.join(lacking)}; `sadr stats` makes them"
        )
    with cuda_or_cpu(), torch.no_grad():
        parts = [module.get_project(model, tokenizer, layer, hparams) for layer in hparams.layers]
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    torch.save(torch.stack(parts), part)
    beside.write_text(json.dumps(made_from, indent=2), encoding="utf-8")
    part.replace(file)
