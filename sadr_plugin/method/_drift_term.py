"""SADR's term of the loss: the drift of the loop's attention rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import SadrConfig
from ..errors import PenaltyError, UnsupportedModelError
from ..terms import Rows, RunningEdit
from ._rows import penalise
from .penalty import head_divergence

DRIFT = "drift"
"""The name of the term."""


class DriftTerm:
    """The drift penalty as a loss term; see `LossTerm`.

    Args:
        running: the edit.
        config: the user's settings.
    """

    name = DRIFT

    def __init__(self, running: RunningEdit, config: SadrConfig) -> None:
        self.weight = config.weight(running.gamma)
        self._running = running
        self._config = config

    def value(self) -> Tensor:
        """Return the penalty before γ, a scalar.

        It is 0 at the first step if that step's rows are the baseline.

        Raises:
            UnsupportedModelError: attention carries no gradient.
        """
        running, rows = self._running, self._running.rows
        if self.weight > 0 and not rows.current.requires_grad:
            raise UnsupportedModelError(
                f"the attention of {type(running.edit.model).__name__} carries no gradient, so its "
                "drift cannot be restricted; reentrant gradient checkpointing cuts it off, "
                "use_reentrant=False or model.eval() does not"
            )
        if rows.baseline is None:
            return rows.current.new_zeros(())
        penalty, selected = penalise(
            running.hooks, self._config, rows.baseline, rows.current, rows.positions
        )
        running.selected = selected.float().mean()
        return penalty


def complain(rows: Rows, config: SadrConfig, layers: Sequence[int], step: int) -> None:
    """Raise an error if an attention row or the drift of a head is not finite.

    Raises:
        PenaltyError: with the first layer and head that are not finite.
    """
    found = {"attention": rows.current.sum(-1).sum(1)}
    if rows.baseline is not None:
        moved = head_divergence(rows.baseline, rows.current, config.divergence)
        found["drift penalty"] = moved.sum(1)
    for what, values in found.items():
        bad = (~torch.isfinite(values)).nonzero().tolist()
        if bad:
            layer, head = bad[0]
            number, place = values[layer, head].item(), f"layer {layers[layer]}, head {head}"
            raise PenaltyError(not_finite(f"{what} is {number}", step, f" in {place}"))


def not_finite(what: str, step: int, place: str = "") -> str:
    """Return the error message of an edit that is abandoned."""
    return (
        f"the {what} at step {step}{place}; the edit is abandoned. A smaller learning rate or "
        "gamma, or a model in float32, may help"
    )
