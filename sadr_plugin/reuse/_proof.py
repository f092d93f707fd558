"""The check that layers give the same on a window of their first forward as on all tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from ._layer import WindowedLayer
from ._window import Window, last_true

PROOF = 4
"""The size in tokens of the window on which each layer is checked."""


def any_looks_ahead(layers: Collection[WindowedLayer], real: Tensor) -> bool:
    """Whether the mask of a layer shows later tokens.

    Args:
        layers: the layers, after their first forward.
        real: which tokens are not padding, [rows, tokens].
    """
    ahead = [layer.looks_ahead(real) for layer in layers]
    return any(_fetched([scalar for scalar in ahead if scalar is not None], real.device))


def try_window(layers: Collection[WindowedLayer], real: Tensor) -> None:
    """Run each layer on a small window of its own first forward. A layer that fails is refused.

    Args:
        layers: the layers, after their first forward.
        real: which tokens are not padding, [rows, tokens].
    """
    tokens, device = real.shape[1], real.device
    able = [layer for layer in layers if layer.refusal is None]
    size = min(PROOF, tokens - 1)
    if size > 1:
        # The window lies near the last real tokens, at a different place in each row. This
        # finds a layer that ignores the place of its window.
        lasts = [last_true(row, default=0) for row in real.tolist()]
        starts = [max(0, last + 1 - size - (row + 1) % 3) for row, last in enumerate(lasts)]
        window = Window(starts, size, tokens)
        proofs = [layer.prove(window, real) for layer in able]
        for layer, holds in zip(able, _fetched(proofs, device), strict=True):
            if not holds and layer.refusal is None:
                layer.refusal = "does not give the same on a part of its tokens"


def _fetched(scalars: Sequence[Tensor], device: torch.device) -> list[Any]:
    return torch.stack([s.to(device) for s in scalars]).tolist() if scalars else []
