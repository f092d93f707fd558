"""How sure a metric is, and whether two arms differ: over records, which is what varies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

from ._metrics import Scores, accuracy

Key = TypeVar("Key", bound=tuple[str, ...])


@dataclass(frozen=True)
class Estimate:
    """A metric over many records, in percent.

    Attributes:
        mean: over all questions.
        margin: half the width of its 95 % interval. Questions of one record hang together, so
            records, not questions, are what varies. None with a single record.
        questions: how many there were.
    """

    mean: float
    margin: float | None
    questions: int


def estimate(
    records: Sequence[Scores], task: str, value: Callable[[float, float], float] = accuracy
) -> Estimate | None:
    """A metric over ``records``; None where none of them has such a question."""
    clusters = [[value(*pair) for pair in scores[task]] for scores in records if scores.get(task)]
    if not clusters:
        return None
    count = sum(map(len, clusters))
    mean = sum(map(sum, clusters)) / count
    # The variance of a ratio of sums over clusters, linearised.
    residuals = [sum(cluster) - mean * len(cluster) for cluster in clusters]
    margin = None
    if len(clusters) > 1:
        spread = sum(r * r for r in residuals) * len(clusters) / (len(clusters) - 1)
        margin = 100 * NormalDist().inv_cdf(0.975) * math.sqrt(spread) / count
    return Estimate(100 * mean, margin, count)


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
