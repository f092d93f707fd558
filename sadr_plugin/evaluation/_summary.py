"""What an evaluation adds up to: every arm over all its records, and how the arms compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ._metrics import TASKS, probability, score
from ._results import Result
from ._significance import Estimate, estimate, sign_test

IN_TABLE = ("efficacy", "paraphrase", "neighbourhood", "relation", "distracting neighbourhood")
"""The paper's columns, in its order; the others stand in the summary."""


@dataclass(frozen=True)
class ArmSummary:
    """One arm over all its records.

    Attributes:
        arm: the arm's name.
        records: how many records have scores.
        failed: how many could not be edited.
        accuracy: each metric as the share of right answers, percent; None without questions.
        probability: each metric as the mean probability of the right answer, percent.
        score: S, from the accuracies.
        rewrite_acc: mean of the records', percent; what EasyEdit calls so.
        fluency: FL, bits, None without texts.
        drift: mean of the records' drift.
        steps: mean number of optimisation steps.
        seconds: mean seconds of an edit.
        versus: two-sided p of the sign test against each other arm, by metric.
    """

    arm: str
    records: int
    failed: int
    accuracy: dict[str, Estimate | None]
    probability: dict[str, Estimate | None]
    score: float | None
    rewrite_acc: float | None
    fluency: float | None
    drift: float | None
    steps: float
    seconds: float
    versus: dict[str, dict[str, float | None]]


def summarise(results: Sequence[Result]) -> list[ArmSummary]:
    """Every arm, in the order of first appearance, over the records that all arms have scored.

    In whatever order the records were evaluated, the summary is the same.
    """
    arms = list(dict.fromkeys(result.arm for result in results))
    scored = {
        arm: {r.record: r for r in results if r.arm == arm and r.error is None} for arm in arms
    }
    common = [
        key for key in sorted(scored[arms[0]]) if all(key in found for found in scored.values())
    ]
    together = {arm: [scored[arm][key] for key in common] for arm in arms}
    return [
        _summary(arm, sum(r.arm == arm and r.error is not None for r in results), together)
        for arm in arms
    ]


def _summary(arm: str, failed: int, together: Mapping[str, list[Result]]) -> ArmSummary:
    own = together[arm]
    scores = [result.scores for result in own]
    accuracies = {task: estimate(scores, task) for task in TASKS}
    return ArmSummary(
        arm=arm,
        records=len(own),
        failed=failed,
        accuracy=accuracies,
        probability={task: estimate(scores, task, probability) for task in TASKS},
        score=score(accuracies),
        rewrite_acc=_mean([r.rewrite_acc and 100 * r.rewrite_acc for r in own]),
        fluency=_mean([r.fluency for r in own]),
        drift=_mean([r.drift for r in own]),
        steps=_mean([r.steps for r in own]) or 0.0,
        seconds=_mean([r.seconds for r in own]) or 0.0,
        versus={
            other: {task: sign_test(scores, [r.scores for r in theirs], task) for task in TASKS}
            for other, theirs in together.items()
            if other != arm
        },
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
