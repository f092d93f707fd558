"""What settings are chosen by: specificity against generalisation, at an edit that takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..evaluation import Result
from ..evaluation._metrics import DISTRACTED

SPECIFIC = ("neighbourhood", "relation", DISTRACTED + "neighbourhood", DISTRACTED + "relation")
"""The metrics that specificity is the mean of, of those that the records have."""

GENERAL = ("paraphrase", "alias")

TAKES = 0.95
"""The efficacy an edit has to have."""


@dataclass(frozen=True)
class Objectives:
    """What a setup came to on some records, each from 0 to 1.

    A question counts σ(log p(right) − log p(wrong)), which moves where right or wrong does not:
    so few records tell more.

    Attributes:
        specificity: over the questions that are to be kept, kind by kind.
        generality: over the paraphrases; the edit itself, where the records have none.
        reworded: the share of the same questions that are answered right: what PS counts.
        efficacy: the share of edits that are made.
        records: of how many records.
    """

    specificity: float
    generality: float
    reworded: float
    efficacy: float
    records: int


def objectives(results: Sequence[Result]) -> Objectives:
    """Of the results of one setup; an edit that failed counts as one that broke everything."""
    kinds = {task for result in results for task in result.scores}
    specific = [kind for kind in SPECIFIC if kind in kinds]
    general = [kind for kind in GENERAL if kind in kinds] or ["efficacy"]
    made = [r.error is None and _right(r, "efficacy") for r in results]
    return Objectives(
        fmean(_means(results, specific, _sigmoid)),
        fmean(_means(results, general, _sigmoid)),
        fmean(_means(results, general, is_right)),
        fmean(made),
        len(results),
    )


def _means(
    results: Sequence[Result], kinds: Sequence[str], count: Callable[[float], float]
) -> list[float]:
    """The mean over the questions of each kind that has some; 0 where none has."""
    found = [mean_answer(results, kind, count) for kind in kinds]
    return [mean for mean in found if mean is not None] or [0.0]


def mean_answer(
    results: Sequence[Result], kind: str, count: Callable[[float], float]
) -> float | None:
    """The mean over the questions of a kind; None where there are none.

    Args:
        results: an edit that failed has one wrong answer.
        kind: of the questions.
        count: what an answer counts, given log p(right) − log p(wrong).
    """
    values: list[float] = []
    for result in results:
        if result.error is not None:
            values.append(0.0)
        values += [count(right - wrong) for right, wrong in result.scores.get(kind, ())]
    return fmean(values) if values else None


def _right(result: Result, kind: str) -> bool:
    return all(right > wrong for right, wrong in result.scores[kind])


def is_right(value: float) -> float:
    """1 for a right answer, 0 for a wrong one; see `mean_answer`."""
    return float(value > 0)


def _sigmoid(value: float) -> float:
    if math.isnan(value):  # of a model that an edit has ruined
        return 0.0
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, value))))
