"""Curves for edits that accumulate: every measure against the number of edits."""

from __future__ import annotations

from collections.abc import Callable

from ._metrics import SHORT
from ._results import UNEDITED
from ._sequence_summary import Point
from ._sequence_tables import UNRELATED_SHORT
from ._significance import Estimate
from ._summary import IN_TABLE

Curve = Callable[[Point, str], Estimate | float | None]
"""Returns the value of an arm at a checkpoint; None if there is none."""


def curves() -> dict[str, Curve]:
    """Return every curve, by its title."""

    def unrelated(kind: str) -> Curve:
        return lambda point, arm: point.models[arm].unrelated[kind]

    def drift(point: Point, arm: str) -> float | None:
        return next((a.drift for a in point.arms if a.arm == arm and arm != UNEDITED), None)

    return {
        **{f"{SHORT[task]}, percent": accuracy(task) for task in IN_TABLE},
        **{f"{short}, percent": unrelated(kind) for kind, short in UNRELATED_SHORT.items()},
        "drift": drift,
        "perplexity": lambda point, arm: point.models[arm].perplexity,
        "change of the weights": lambda point, arm: point.models[arm].change,
    }


def accuracy(task: str) -> Curve:
    """Return the curve of the share of right answers, in percent."""

    def curve(point: Point, arm: str) -> Estimate | None:
        return next((a.accuracy[task] for a in point.arms if a.arm == arm), None)

    return curve
