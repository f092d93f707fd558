"""The paper's metrics (sections 3 and 5), from the scores of single questions.

A score is a mean log-probability. A right answer is one whose score is higher than the wrong
one's; a metric is the share of right answers (accuracy), or the mean probability of the right
ones, over all questions of its kind, in percent.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import harmonic_mean
from typing import TYPE_CHECKING

from ._records import Question, Record

if TYPE_CHECKING:
    from ._significance import Estimate

DISTRACTED = "distracting "


def efficacy(record: Record) -> list[Question]:
    """The edited fact itself."""
    return [Question(record.prompt, record.target_new, record.target_true)]


def _distracted(record: Record, questions: Sequence[Question]) -> list[Question]:
    """The same questions after the edited fact has been stated (paper, section 3)."""
    return [Question(f"{record.statement} {q.prompt}", q.right, q.wrong) for q in questions]


TASKS: dict[str, Callable[[Record], list[Question]]] = {
    "efficacy": efficacy,
    "paraphrase": lambda record: list(record.paraphrases),
    "alias": lambda record: list(record.aliases),
    "neighbourhood": lambda record: list(record.neighbours),
    DISTRACTED + "neighbourhood": lambda record: _distracted(record, record.neighbours),
    "relation": lambda record: list(record.relations),
    DISTRACTED + "relation": lambda record: _distracted(record, record.relations),
    "consequence": lambda record: list(record.consequences),
    "reminder": lambda record: list(record.reminders),
}
"""What is asked of each record, by the name of the metric."""

SHORT = {
    "efficacy": "ES",
    "paraphrase": "PS",
    "alias": "AS",
    "neighbourhood": "NS",
    "relation": "RS",
    DISTRACTED + "neighbourhood": "DNS",
    DISTRACTED + "relation": "DRS",
    "consequence": "CS",
    "reminder": "MS",
}
"""The metrics' abbreviations."""

IN_SCORE = ("efficacy", "paraphrase", "neighbourhood", "relation", DISTRACTED + "neighbourhood")
"""The metrics whose harmonic mean is the score S."""

Scores = Mapping[str, Sequence[tuple[float, float]]]
"""One record's scores: by metric, for each question (right, wrong), in nats."""


def accuracy(right: float, wrong: float) -> float:
    """1 for a right answer, 0 for another."""
    return float(right > wrong)


def probability(right: float, _: float) -> float:
    """The probability of the right answer."""
    return math.exp(right)


def score(estimates: Mapping[str, Estimate | None]) -> float | None:
    """S, the harmonic mean of ES, PS, NS, RS and DNS, of those of them the data has."""
    means = [found.mean for task in IN_SCORE if (found := estimates.get(task)) is not None]
    return harmonic_mean(means) if means else None


def ngram_entropy(text: str) -> float:
    """FL, the weighted entropy of a text's 2- and 3-grams of words, in bits (as in ROME's paper).

    (2/3 · H₂ + 4/3 · H₃) / 2; low where a text repeats itself.
    """
    words = re.findall(r"\w+|[^\w\s]", text)
    return (2 / 3 * _entropy(words, 2) + 4 / 3 * _entropy(words, 3)) / 2


def _entropy(words: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values())
