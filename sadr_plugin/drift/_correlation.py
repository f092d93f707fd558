"""Test whether questions with more attention drift are answered worse."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import EvaluationError
from ..evaluation import UNEDITED, Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

RESAMPLES = 2000


@dataclass(frozen=True)
class Coefficient:
    """A correlation coefficient with its 95 % bootstrap interval over records.

    Attributes:
        value: the coefficient.
        low: the lower end of the interval; None with fewer than five records.
        high: the upper end of the interval; None with fewer than five records.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Correlation:
    """The correlation of drift and loss over an arm's questions of one kind.

    The drift is the divergence of a question's attention, summed over layers and heads, in nats.
    The loss is the fall of the log-probability of its right answer, in nats.

    Attributes:
        arm: the arm's name.
        kind: the metric that asks the questions.
        questions: the number of questions.
        records: the number of records they belong to.
        pearson: the correlation of the values.
        spearman: the correlation of their ranks.
        points: (drift, loss) of each question.
    """

    arm: str
    kind: str
    questions: int
    records: int
    pearson: Coefficient
    spearman: Coefficient
    points: Sequence[tuple[float, float]]


def correlations(results: Sequence[Result]) -> list[Correlation]:
    """Correlate drift and loss, for each arm and kind of question with measured drift.

    These are left out: the questions of the edit itself, whose answers should change; a kind with
    fewer than three questions; a kind whose drift or loss is always the same.

    Raises:
        EvaluationError: SciPy is not installed.
    """
    unedited = {r.record: r for r in results if r.arm == UNEDITED and r.error is None}
    points: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for result in results:
        for kind, moved in (result.moved or {}).items():
            if kind == "efficacy" or result.record not in unedited:
                continue
            before = unedited[result.record].scores[kind]
            for drift, (right, _), (now, _) in zip(moved, before, result.scores[kind], strict=True):
                if drift is not None:
                    own = points.setdefault((result.arm, kind), {})
                    own.setdefault(result.record, []).append((drift, right - now))
    return [
        _correlation(arm, kind, of_records)
        for (arm, kind), of_records in points.items()
        if _varies([point for own in of_records.values() for point in own])
    ]


def _varies(points: Sequence[tuple[float, float]]) -> bool:
    """Whether the points vary enough for a correlation."""
    return len(points) >= 3 and all(len(set(values)) > 1 for values in zip(*points, strict=True))


def _correlation(
    arm: str, kind: str, of_records: Mapping[str, Sequence[tuple[float, float]]]
) -> Correlation:
    try:
        import numpy as np
        from scipy import stats
    except ImportError:
        raise EvaluationError("SciPy is not installed; pip install 'sadr-plugin[report]'") from None
    clusters = [np.asarray(points) for points in of_records.values()]
    points = np.concatenate(clusters)
    return Correlation(
        arm,
        kind,
        len(points),
        len(clusters),
        _with_interval(clusters, lambda found: stats.pearsonr(*found.T).statistic),
        _with_interval(clusters, lambda found: stats.spearmanr(*found.T).statistic),
        [(float(drift), float(loss)) for drift, loss in points],
    )


def _with_interval(clusters: Sequence[Points], coefficient: Callable[[Points], Any]) -> Coefficient:
    """Return the coefficient over all points. The bootstrap draws records, not questions."""
    import numpy as np

    value = float(coefficient(np.concatenate(clusters)))
    if len(clusters) < 5:
        return Coefficient(value, None, None)
    random = np.random.default_rng(0)
    drawn = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sample may be constant
        for _ in range(RESAMPLES):
            chosen = random.integers(len(clusters), size=len(clusters))
            drawn.append(coefficient(np.concatenate([clusters[index] for index in chosen])))
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return Coefficient(value, float(low), float(high))
