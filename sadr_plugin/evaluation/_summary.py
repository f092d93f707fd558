"""The summary of an evaluation: every arm over all its records, with tests between arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import harmonic_mean

from ._metrics import IN_SCORE, TASKS, Scores, probability
from ._results import UNEDITED, Result
from ._significance import Estimate, estimate, holm, mean_interval, sign_test

Tests = Mapping[tuple[str, str, str], float | None]
"""P values by two arms and a metric."""


@dataclass(frozen=True)
class ArmSummary:
    """One arm over all its records.

    Attributes:
        arm: the arm's name.
        records: the number of records with scores.
        failed: the number of records that could not be edited.
        accuracy: each metric as the share of right answers, in percent. None without questions.
        probability: each metric as the mean probability of the right answer, in percent.
        score: S, from the accuracies.
        rewrite_acc: the mean of the records' values, in percent. EasyEdit uses the same name.
        fluency: FL in bits. None without texts.
        drift: the mean of the records' drift.
        drift_interval: the ends of its 95 % interval, by Student's t. None with a single record.
        steps: the mean number of optimisation steps.
        stopped: the share of edits whose target reached ``stop_at``, in percent. None without it.
        seconds: the mean time of an edit, in seconds.
        versus: the two-sided p of the sign test against each other arm, by metric.
        corrected: the same p between edited arms, corrected for the number of all these tests
            (Holm).
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
    drift_interval: tuple[float, float] | None
    steps: float
    stopped: float | None
    seconds: float
    versus: dict[str, dict[str, float | None]]
    corrected: dict[str, dict[str, float | None]]


def summarise(results: Sequence[Result], arms: Sequence[str] | None = None) -> list[ArmSummary]:
    """Summarise every arm over the records that all arms have scored.

    The summary does not depend on the order in which the records were evaluated.

    Args:
        results: the results of one mode.
        arms: the order of the arms, after the unedited one. None takes the order in ``results``.
    """
    found = dict.fromkeys(result.arm for result in results)
    arms = [arm for arm in (UNEDITED, *(arms or found)) if arm in found]
    arms = list(dict.fromkeys(arms))
    together = scored_in_all(results, arms)
    tests = {
        (one, other, task): sign_test(_scores(together[one]), _scores(together[other]), task)
        for one, other in combinations(arms, 2)
        for task in TASKS
    }
    corrected = holm({key: p for key, p in tests.items() if UNEDITED not in key})
    failed = {arm: sum(r.arm == arm and r.error is not None for r in results) for arm in arms}
    return [_summary(arm, failed[arm], together[arm], tests, corrected) for arm in arms]


def scored_in_all(results: Sequence[Result], arms: Sequence[str]) -> dict[str, list[Result]]:
    """Return the results of each arm on the records that all arms have scored, in one order."""
    scored = {
        arm: {r.record: r for r in results if r.arm == arm and r.error is None} for arm in arms
    }
    common = sorted(set.intersection(*map(set, scored.values()))) if scored else []
    return {arm: [scored[arm][key] for key in common] for arm in arms}


def score(estimates: Mapping[str, Estimate | None]) -> float | None:
    """Return S, the harmonic mean of ES, PS, NS, RS and DNS.

    Metrics that the data does not have are left out. None if it has none of them.
    """
    means = [found.mean for task in IN_SCORE if (found := estimates.get(task)) is not None]
    return harmonic_mean(means) if means else None


def _scores(results: Sequence[Result]) -> list[Scores]:
    return [result.scores for result in results]


def _against(arm: str, tests: Tests) -> dict[str, dict[str, float | None]]:
    """Return the tests of an arm, by the other arm and the metric."""
    found: dict[str, dict[str, float | None]] = {}
    for (one, other, task), p in tests.items():
        if arm in (one, other):
            found.setdefault(other if arm == one else one, {})[task] = p
    return found


def _summary(
    arm: str, failed: int, own: Sequence[Result], tests: Tests, corrected: Tests
) -> ArmSummary:
    scores = _scores(own)
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
        drift_interval=mean_interval([r.drift for r in own]),
        steps=_mean([r.steps for r in own]) or 0.0,
        stopped=_mean([None if r.stopped is None else 100.0 * r.stopped for r in own]),
        seconds=_mean([r.seconds for r in own]) or 0.0,
        versus=_against(arm, tests),
        corrected=_against(arm, corrected),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
