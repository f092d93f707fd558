"""The null-space projection of AlphaEdit and SPHERE, computed once by their own code.

Without this module, they compute the projection again for each edit while there is no file at
``P_loc``. They write the result under a fixed name in the current folder, whatever ``P_loc`` says.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sadr_plugin.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from .statistics import Job

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
"""The hparams that determine a projection, together with the content of the layer statistics.

A JSON file beside the projection contains them, and hashes of the statistics.
"""


def prepare_projection(module: Any, model: nn.Module, tokenizer: Any, hparams: Any) -> None:
    """Make sure that the projection is at ``P_loc``, where the editor reads it.

    Args:
        module: the editor's module with ``get_project``.
        model: the unedited model.
        tokenizer: the model's tokenizer.
        hparams: the editor's hparams. ``P_loc`` is the file of the projection.

    Raises:
        ConfigError: the file was made for other settings or from other layer statistics, or layer
            statistics are missing.
    """
    import torch

    from sadr_plugin.devices import cuda_or_cpu

    from .statistics import Job, damaged, missing
    from .statistics_files import projection_fault

    file = Path(hparams.P_loc)
    beside = file.with_name(f"{file.name}.json")
    made_from = {name: getattr(hparams, name) for name in DEPENDS_ON}
    job = Job(model, tokenizer, hparams)
    module.P_loaded = False
    if file.exists():
        # A projection without a JSON file was made by the toolkit or by its authors.
        if beside.exists():
            _expect_same(file, beside, made_from, job)
        fault = projection_fault(hparams, model)
        if fault is not None:
            raise ConfigError(fault)
        return
    lacking = missing(job)
    if lacking:
        raise ConfigError(
            f"P_loc: there is no file {file}, and to compute it layer statistics are missing, of "
            f"{', '.join(lacking)}; `sadr stats` makes them"
        )
    spoiled = damaged(job)
    if spoiled:
        raise ConfigError(f"P_loc: there is no file {file}, and {'; '.join(spoiled.values())}")
    statistics = _statistics(job)
    with cuda_or_cpu(), torch.no_grad():
        parts = [module.get_project(model, tokenizer, layer, hparams) for layer in hparams.layers]
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    torch.save(torch.stack(parts), part)
    note = {**made_from, "statistics": statistics}
    beside.write_text(json.dumps(note, indent=2), encoding="utf-8")
    part.replace(file)


def _expect_same(file: Path, beside: Path, made_from: Mapping[str, Any], job: Job) -> None:
    """Compare what a projection was made from with what it would be made from now.

    Statistics do not count if their hash was not noted, or if they do not exist any more.
    """
    before = json.loads(beside.read_text(encoding="utf-8"))
    noted = before.pop("statistics", {})
    if before != made_from:
        raise ConfigError(f"P_loc: {file} was made for other settings, see {beside}; remove it")
    changed = [name for name, now in _statistics(job).items() if noted.get(name, now) != now]
    if changed:
        raise ConfigError(
            f"P_loc: {file} was made from other layer statistics of {', '.join(changed)} than "
            f"those in {job.hparams.stats_dir}; remove it, and the next run makes it again"
        )


def _statistics(job: Job) -> dict[str, str]:
    """Return a hash of the content of each module's layer statistics, if they exist.

    A file of statistics can have a gigabyte. It is a ZIP archive, whose directory has a checksum of
    each array, so only the directory is read.
    """
    from .statistics import files

    found = {}
    for name, file in files(job).items():
        if file.exists():
            try:
                with zipfile.ZipFile(file) as archive:
                    arrays = sorted((i.filename, i.CRC, i.file_size) for i in archive.infolist())
            except zipfile.BadZipFile as error:
                raise ConfigError(
                    f"P_loc: the layer statistics {file} cannot be read: {error}; remove them; "
                    "`sadr stats` makes them again"
                ) from None
            found[name] = hashlib.sha256(repr(arrays).encode()).hexdigest()
    return found
