"""The objectives of the search: specificity and generality, for edits that succeed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..evaluation import Result
from ..evaluation._metrics import DISTRACTED

SPECIFIC = ("neighbourhood", "relation", DISTRACTED + "neighbourhood", DISTRACTED + "relation")
"""The metrics of specificity. Metrics without questions are left out."""

GENERAL = ("paraphrase", "alias")
"""The metrics of generality. Metrics without questions are left out."""

TAKES = 0.95
"""The efficacy that settings need."""

Asked = Mapping[str, Mapping[str, int]]
"""The number of questions, by record and metric."""


def questions(unedited: Sequence[Result]) -> Asked:
    """Return the number of questions, from the unedited model's results. It never fails."""
    return {r.record: {kind: len(pairs) for kind, pairs in r.scores.items()} for r in unedited}


def failures_allowed(records: int) -> int:
    """Return the number of edits that may fail on some records.

    It is one more than `TAKES` allows. One failure among few records does not show that the
    efficacy is too low.
    """
    return 1 + int((1 - TAKES) * records)


@dataclass(frozen=True)
class Objectives:
    """The objectives of a setup on some records.

    All values except ``records`` are from 0 to 1. A question counts as σ(log p(right) − log
    p(wrong)). This number also moves when an answer does not change between right and wrong. So it
    gives more information from few records.

    Attributes:
        specificity: the mean over the metrics of `SPECIFIC`.
        generality: the mean over the metrics of `GENERAL`. It is the mean over the edited facts
            themselves if no record has such questions.
        reworded: the share of right answers to the questions of ``generality``, which PS counts.
        efficacy: the share of edits that succeed.
        records: the number of records.
    """

    specificity: float
    generality: float
    reworded: float
    efficacy: float
    records: int

    def beats(self, other: Objectives) -> bool:
        """Whether these are at least as good in both objectives, and better in one."""
        own, others = (self.specificity, self.generality), (other.specificity, other.generality)
        pairs = list(zip(own, others, strict=True))
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def objectives(results: Sequence[Result], asked: Asked) -> Objectives:
    """Return the objectives of one setup from its results.

    A failed edit counts as an edit that breaks every answer.

    Args:
        results: the results of one setup.
        asked: the number of questions; see `questions`.
    """

    def means(kinds: Sequence[str], count: Callable[[float], float]) -> float:
        found = [mean_answer(results, kind, count, asked) for kind in kinds]
        known = [mean for mean in found if mean is not None]
        return fmean(known) if known else 0.0

    general = [k for k in GENERAL if mean_answer(results, k, is_right, asked) is not None]
    general = general or ["efficacy"]
    made = [r.error is None and _right(r, "efficacy") for r in results]
    return Objectives(
        means(SPECIFIC, _sigmoid),
        means(general, _sigmoid),
        means(general, is_right),
        fmean(made),
        len(results),
    )


def mean_answer(
    results: Sequence[Result], kind: str, count: Callable[[float], float], asked: Asked
) -> float | None:
    """Return the mean over the questions of a metric, or None without questions.

    Args:
        results: the results of one setup. A failed edit counts as wrong answers to its questions.
        kind: the metric.
        count: turns log p(right) − log p(wrong) into the value of an answer.
        asked: the number of questions; see `questions`.
    """
    values: list[float] = []
    for result in results:
        if result.error is not None:
            values += [0.0] * asked[result.record].get(kind, 0)
        values += [count(right - wrong) for right, wrong in result.scores.get(kind, ())]
    return fmean(values) if values else None


def _right(result: Result, kind: str) -> bool:
    """Whether all questions of a metric are answered right."""
    return all(right > wrong for right, wrong in result.scores[kind])


def is_right(value: float) -> float:
    """Return 1 for a right answer and 0 for a wrong one; see `mean_answer`."""
    return float(value > 0)


def _sigmoid(value: float) -> float:
    if math.isnan(value):  # the edit has ruined the model
        return 0.0
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, value))))
