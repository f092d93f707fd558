"""Check the files that an edit reads: layer statistics, and the projection of AlphaEdit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

AGAIN = "`sadr stats` computes them anew"

AT_ONCE = 1024
"""The number of rows of a matrix that are checked at once, so that a large one is not copied."""

PROJECTS = 0.05
"""The largest relative change by a second projection. A half precision file is within it."""


def statistic_fault(file: Path, width: int | None) -> str | None:
    """Return why a file of layer statistics cannot be used. None if it can.

    Args:
        file: the file, which exists.
        width: the width of the module's input. None if it is not known.
    """
    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as kept:
            count, moment = int(kept["mom2.count"]), kept["mom2.mom2"]
    except Exception as error:  # a damaged file may make numpy, zipfile or zlib raise anything
        why = str(error) or type(error).__name__
        return f"{file} cannot be read as layer statistics: {why}; {AGAIN}"
    if count < 1 or moment.ndim != 2 or moment.shape[0] != moment.shape[1]:
        return f"{file} holds no layer statistics (a square matrix and a count); {AGAIN}"
    if width is not None and len(moment) != width:
        return (
            f"{file} is of width {len(moment):,}, and the module takes {width:,}, so it was made "
            f"for another model or module; {AGAIN}"
        )
    pieces = [moment[start : start + AT_ONCE] for start in range(0, len(moment), AT_ONCE)]
    if not all(np.isfinite(piece).all() for piece in pieces):
        return f"{file} holds NaN or infinite numbers; {AGAIN}"
    if not any(piece.any() for piece in pieces):
        return f"{file} holds only zeros; {AGAIN}"
    return None


def projection_fault(hparams: Any, model: nn.Module | None) -> str | None:
    """Return why the projection at ``P_loc`` cannot be used. None if it can.

    Args:
        hparams: the editor's hparams, or their values under the same names. The file exists.
        model: the model that will be edited. It may have no weights. None if it is not known.
    """
    import torch

    from .hparams_files import rewritten_modules

    file = Path(hparams.P_loc)
    again = "remove it, and the next run computes it from the layer statistics"
    try:
        projection = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind may make torch raise anything
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"P_loc: {file} cannot be read as a projection: {why}; {again}"
    if not isinstance(projection, torch.Tensor) or projection.dim() != 3:
        return f"P_loc: {file} holds no tensor [layers, width, width]; {again}"
    layers, *sizes = projection.shape
    if layers != len(hparams.layers):
        return (
            f"P_loc: {file} is for {layers} layers, and {len(hparams.layers)} are edited; {again}"
        )
    names = rewritten_modules(hparams)
    wanted = sizes[0] if model is None else width_of(model.get_submodule(names[0]))
    if sizes != [wanted, wanted]:
        return (
            f"P_loc: {file} is of width {sizes[0]:,}, and {names[0]} takes {wanted:,}, so it was "
            f"made for another model; {again}"
        )
    for layer, matrix in zip(hparams.layers, projection, strict=True):
        if not torch.isfinite(matrix).all():
            return f"P_loc: {file} holds NaN or infinite numbers for layer {layer}; {again}"
        if not matrix.any():
            return (
                f"P_loc: {file} holds only zeros for layer {layer}, so no edit is possible; {again}"
            )
        if not _projects(matrix.float()):
            return f"P_loc: {file} holds no projection for layer {layer}; {again}"
    return None


def _projects(matrix: Any) -> bool:
    """Whether a matrix changes a vector no further when it is applied twice."""
    import torch

    vector = torch.randn(len(matrix), generator=torch.Generator().manual_seed(0))
    once = matrix @ vector
    return bool((matrix @ once - once).norm() <= PROJECTS * once.norm())


def width_of(module: Any) -> int:
    """Return the width of a module's input: of a linear layer, or of transformers' ``Conv1D``."""
    size = getattr(module, "in_features", None)
    if size is None:  # Conv1D has its weight [in, out]
        size = module.weight.shape[0 if hasattr(module, "nf") else -1]
    return int(size)
