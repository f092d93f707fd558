"""The uncertainty of metrics, and tests between two arms. Records are the sampling units."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from ._metrics import Scores, accuracy

Key = TypeVar("Key", bound=tuple[str, ...])


@dataclass(frozen=True)
class Estimate:
    """A metric over many records, in percent.

    Attributes:
        mean: the mean over all questions.
        low: the lower end of the 95 % interval. None with a single record. Questions of one record
            depend on each other, so the interval is based on records.
        high: the upper end of the interval. None with a single record.
        questions: the number of questions.
    """

    mean: float
    low: float | None
    high: float | None
    questions: int


def estimate(
    records: Sequence[Scores], task: str, value: Callable[[float, float], float] = accuracy
) -> Estimate | None:
    """Estimate a metric over ``records``.

    The interval is Wilson's with an effective number of questions (Korn and Graubard 1998; Dean and
    Pagano 2015). This is the number of independent questions that would give the mean the same
    uncertainty. Student's t replaces the normal quantile. If all answers are equal, the data do not
    show the uncertainty, and each record counts as one question. A mean of probabilities varies no
    more than a mean of right answers, so the interval is valid for it as well.

    Args:
        records: the scores of each record.
        task: the metric.
        value: the value of a question, from 0 to 1.

    Returns:
        None if no record has a question of this metric.
    """
    clusters = _clusters(records, task, value)
    if not clusters:
        return None
    count = sum(map(len, clusters))
    mean = sum(map(sum, clusters)) / count
    if len(clusters) == 1:
        return Estimate(100 * mean, None, None, count)
    # The linearised variance of a ratio of sums over clusters.
    residuals = [sum(cluster) - mean * len(cluster) for cluster in clusters]
    spread = sum(r * r for r in residuals) * len(clusters) / (len(clusters) - 1)
    variance = spread / count**2
    effective = min(mean * (1 - mean) / variance, count) if variance > 0 else len(clusters)
    low, high = _wilson(mean, max(effective, 1.0), student_quantile(0.975, len(clusters) - 1))
    return Estimate(100 * mean, 100 * low, 100 * high, count)


def _clusters(
    records: Sequence[Scores], task: str, value: Callable[[float, float], float]
) -> list[list[float]]:
    """Return the values of the questions of each record that has questions."""
    return [[value(*pair) for pair in scores[task]] for scores in records if scores.get(task)]


def difference(one: Sequence[Scores], other: Sequence[Scores], task: str) -> Estimate | None:
    """Estimate by how much one arm answers better than another, in points of accuracy.

    The interval is made as Newcombe does for paired proportions (1998). It combines the intervals
    of both arms (see `estimate`) and their correlation. Unlike a bootstrap, it has a width where
    all answers are equal.

    Args:
        one: the scores of each record in one arm.
        other: the scores of the same records in the other arm.
        task: the metric.

    Returns:
        None if no record has a question of this metric.
    """
    a, b = estimate(one, task), estimate(other, task)
    if a is None or b is None:
        return None
    gap = a.mean - b.mean
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Estimate(gap, None, None, a.questions)
    related = _correlation(*(_residuals(scores, task) for scores in (one, other)))

    def distance(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * related * x * y + y * y))

    below = distance(a.mean - a.low, b.high - b.mean)
    above = distance(a.high - a.mean, b.mean - b.low)
    return Estimate(gap, max(-100.0, gap - below), min(100.0, gap + above), a.questions)


def _residuals(records: Sequence[Scores], task: str) -> list[float]:
    """Return for each record how many more answers are right than on average."""
    clusters = _clusters(records, task, accuracy)
    mean = sum(map(sum, clusters)) / sum(map(len, clusters))
    return [sum(cluster) - mean * len(cluster) for cluster in clusters]


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the correlation of residuals, or 0 if one arm has none."""
    size = math.sqrt(sum(x * x for x in one) * sum(y * y for y in other))
    return sum(x * y for x, y in zip(one, other, strict=True)) / size if size > 0 else 0.0


def _wilson(mean: float, count: float, quantile: float) -> tuple[float, float]:
    square = quantile**2 / count
    centre = (mean + square / 2) / (1 + square)
    half = math.sqrt(square * (mean * (1 - mean) + square / 4)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of records' values, by Student's t.

    Args:
        values: the value of each record, at least 0; None if it has none. The interval does not
            reach below 0.

    Returns:
        None with fewer than two values, or if one is not finite.
    """
    known = [value for value in values if value is not None]
    if len(known) < 2 or not all(map(math.isfinite, known)):
        return None
    half = student_quantile(0.975, len(known) - 1) * stdev(known) / math.sqrt(len(known))
    return max(0.0, fmean(known) - half), fmean(known) + half


@functools.cache
def student_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t for a probability above 0.5.

    Args:
        probability: the probability.
        freedom: the degrees of freedom.
    """
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        if (1 + _student_within(middle, freedom)) / 2 < probability:
            low = middle
        else:
            high = middle
    return low


def _student_within(t: float, freedom: int) -> float:
    """Return the probability between -t and t (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    term = total = math.cos(angle) if freedom % 2 else 1.0
    for k in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (k - 1) / k
        total += term
    if freedom % 2 == 0:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))


def compared(one: Sequence[Scores], other: Sequence[Scores], task: str) -> tuple[int, int]:
    """Return in how many records one arm answers better than another, and in how many worse.

    The share of right answers decides. Records without questions of this metric do not count.
    """
    better = worse = 0
    for a, b in zip(one, other, strict=True):
        if a.get(task) and b.get(task):
            gap = sum(accuracy(*pair) for pair in a[task]) - sum(accuracy(*p) for p in b[task])
            better, worse = better + (gap > 0), worse + (gap < 0)
    return better, worse


def sign_test(one: Sequence[Scores], other: Sequence[Scores], task: str) -> float | None:
    """Return the two-sided p of the hypothesis that two arms answer equally well.

    The test is paired by record. It counts the records that one arm answers better, by the share of
    right answers. Under the hypothesis, either arm is the better one in half of them.

    Returns:
        None if no record differs.
    """
    better, worse = compared(one, other, task)
    count = better + worse
    if count == 0:
        return None
    tail: float = sum(math.comb(count, k) for k in range(min(better, worse) + 1)) / 2**count
    return min(1.0, 2 * tail)


def holm(found: Mapping[Key, float | None]) -> dict[Key, float | None]:
    """Correct p values for their number (Holm 1979).

    If nothing differs, the chance that any corrected p is below 0.05 is at most 5 percent.

    Args:
        found: the p value of each test. None if there was nothing to test; it does not count.

    Returns:
        The corrected p value of each test.
    """
    tested = sorted((p, key) for key, p in found.items() if p is not None)
    corrected: dict[Key, float | None] = dict.fromkeys(found)
    largest = 0.0
    for place, (p, key) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - place) * p))
        corrected[key] = largest
    return corrected
