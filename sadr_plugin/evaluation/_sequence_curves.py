"""Curves for edits that accumulate: every measure against the number of edits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ._metrics import SHORT, WITH_DRS
from ._results import UNEDITED
from ._sequence_summary import Point
from ._sequence_tables import UNRELATED_SHORT
from ._significance import Estimate
from ._summary import ArmSummary


@dataclass(frozen=True)
class Mean:
    """A mean that is no percentage, with its 95 % interval.

    Attributes:
        mean: the mean.
        low: the lower end of the interval.
        high: the upper end of the interval.
    """

    mean: float
    low: float
    high: float


Curve = Callable[[Point, str], Estimate | Mean | float | None]
"""Returns the value of an arm at a checkpoint; None if there is none."""


def curves() -> dict[str, Curve]:
    """Return every curve, by its title."""

    def unrelated(kind: str) -> Curve:
        return lambda point, arm: point.models[arm].unrelated[kind]

    return {
        "S, percent": lambda point, arm: (found := _arm(point, arm)) and found.score,
        **{f"{SHORT[task]}, percent": accuracy(task) for task in WITH_DRS},
        **{f"{short}, percent": unrelated(kind) for kind, short in UNRELATED_SHORT.items()},
        "FL, bits": lambda point, arm: (found := _arm(point, arm)) and found.fluency,
        "drift": _drift,
        "perplexity": lambda point, arm: point.models[arm].perplexity,
        "change of the weights": lambda point, arm: point.models[arm].change,
    }


def accuracy(task: str) -> Curve:
    """Return the curve of the share of right answers, in percent."""

    def curve(point: Point, arm: str) -> Estimate | None:
        found = _arm(point, arm)
        return None if found is None else found.accuracy[task]

    return curve


def _arm(point: Point, arm: str) -> ArmSummary | None:
    return next((summary for summary in point.arms if summary.arm == arm), None)


def _drift(point: Point, arm: str) -> Mean | float | None:
    found = _arm(point, arm)
    if found is None or found.drift is None or arm == UNEDITED:
        return None
    interval = found.drift_interval
    return found.drift if interval is None else Mean(found.drift, *interval)
