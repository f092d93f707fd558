"""The null-space projection of AlphaEdit and SPHERE, computed once by their own code.

Without this module, they compute the projection again for each edit while there is no file at
``P_loc``. They write the result under a fixed name in the current folder, whatever ``P_loc`` says.
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
"""The hparams that determine a projection. A JSON file beside the projection contains them."""


def prepare_projection(module: Any, model: nn.Module, tokenizer: Any, hparams: Any) -> None:
    """Make sure that the projection is at ``P_loc``, where the editor reads it.

    Args:
        module: the editor's module with ``get_project``.
        model: the unedited model.
        tokenizer: the model's tokenizer.
        hparams: the editor's hparams. ``P_loc`` is the file of the projection.

    Raises:
        ConfigError: the file was made for other settings, or layer statistics are missing.
    """
    import torch

    from sadr_plugin.devices import cuda_or_cpu

    from .statistics import Job, missing

    file = Path(hparams.P_loc)
    beside = file.with_name(f"{file.name}.json")
    made_from = {name: getattr(hparams, name) for name in DEPENDS_ON}
    module.P_loaded = False
    if file.exists():
        # A projection without a JSON file was made by the toolkit or by its authors.
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
