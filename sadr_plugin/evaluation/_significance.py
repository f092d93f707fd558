"""How sure a metric is, and whether two arms differ: over records, which is what varies."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ._metrics import Scores, accuracy

Key = TypeVar("Key", bound=tuple[str, ...])


@dataclass(frozen=True)
class Estimate:
    """A metric over many records, in percent.

    Attributes:
        mean: over all questions.
        low: the lower end of its 95 % interval; None with a single record. Questions of one record
            hang together, so records, not questions, are what varies.
        high: the upper end.
        questions: how many there were.
    """

    mean: float
    low: float | None
    high: float | None
    questions: int


def estimate(
    records: Sequence[Scores], task: str, value: Callable[[float, float], float] = accuracy
) -> Estimate | None:
    """A metric over ``records``; None where none of them has such a question.

    The interval is Wilson's with the effective number of questions in place of their number
    (Korn and Graubard 1998; Dean and Pagano 2015): as many independent questions as would leave
    the mean as uncertain as it is, and Student's t in place of the normal quantile. Where all
    answers are alike nothing says how uncertain it is, and each record counts as one question.
    A mean of probabilities varies no more than one of right answers does, so this holds for it.

    Args:
        records: each record's scores.
        task: the metric.
        value: what a question counts, from 0 to 1.
    """
    clusters = [[value(*pair) for pair in scores[task]] for scores in records if scores.get(task)]
    if not clusters:
        return None
    count = sum(map(len, clusters))
    mean = sum(map(sum, clusters)) / count
    if len(clusters) == 1:
        return Estimate(100 * mean, None, None, count)
    # The variance of a ratio of sums over clusters, linearised.
    residuals = [sum(cluster) - mean * len(cluster) for cluster in clusters]
    spread = sum(r * r for r in residuals) * len(clusters) / (len(clusters) - 1)
    variance = spread / count**2
    effective = min(mean * (1 - mean) / variance, count) if variance > 0 else len(clusters)
    low, high = _wilson(mean, max(effective, 1.0), student_quantile(0.975, len(clusters) - 1))
    return Estimate(100 * mean, 100 * low, 100 * high, count)


def _wilson(mean: float, count: float, quantile: float) -> tuple[float, float]:
    square = quantile**2 / count
    centre = (mean + square / 2) / (1 + square)
    half = math.sqrt(square * (mean * (1 - mean) + square / 4)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


@functools.cache
def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t with so many degrees of freedom, for a probability above 0.5."""
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        if (1 + _student_within(middle, freedom)) / 2 < probability:
            low = middle
        else:
            high = middle
    return low


def _student_within(t: float, freedom: int) -> float:
    """The probability of lying between -t and t (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    term = total = math.cos(angle) if freedom % 2 else 1.0
    for k in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (k - 1) / k
        total += term
    if freedom % 2 == 0:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))


def sign_test(one: Sequence[Scores], other: Sequence[Scores], task: str) -> float | None:
    """Two-sided p that two arms answer alike, paired by record; None without a difference.

    Of the records that one arm answers better (by its share of right answers), half would be
    either arm's by chance.
    """
    better = worse = 0
    for a, b in zip(one, other, strict=True):
        if a.get(task) and b.get(task):
            gap = sum(accuracy(*pair) for pair in a[task]) - sum(accuracy(*p) for p in b[task])
            better, worse = better + (gap > 0), worse + (gap < 0)
    count = better + worse
    if count == 0:
        return None
    tail: float = sum(math.comb(count, k) for k in range(min(better, worse) + 1)) / 2**count
    return min(1.0, 2 * tail)


def holm(found: Mapping[Key, float | None]) -> dict[Key, float | None]:
    """P values corrected for their number (Holm 1979), so that of all of them together the chance
    of one below 0.05 is 5 percent where nothing differs.

    Args:
        found: the p value of each test; None where there was nothing to test, which does not count.
    """
    tested = sorted((p, key) for key, p in found.items() if p is not None)
    corrected: dict[Key, float | None] = dict.fromkeys(found)
    largest = 0.0
    for place, (p, key) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - place) * p))
        corrected[key] = largest
    return corrected
