"""The paper's metrics (sections 3 and 5), computed from the scores of single questions.

A score is a mean log-probability. A question is answered right if the score of the right answer is
higher than that of the wrong one. A metric is the share of questions answered right (accuracy), or
the mean probability of the right answers, over all questions of its kind, in percent.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..editor import Question, Record

if TYPE_CHECKING:
    pass

DISTRACTED = "distracting "


def efficacy(record: Record) -> list[Question]:
    """Return the question about the edited fact itself."""
    return [Question(record.prompt, record.target_new, record.target_true)]


def _distracted(record: Record, questions: Sequence[Question]) -> list[Question]:
    """Return the questions with the edited statement before each prompt (paper, section 3)."""
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
"""The questions of each metric, as functions of a record."""

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
"""The abbreviations of the metrics."""

IN_SCORE = ("efficacy", "paraphrase", "neighbourhood", "relation", DISTRACTED + "neighbourhood")
"""The metrics in the score S, which is their harmonic mean. They are the paper's columns."""

WITH_DRS = (*IN_SCORE, DISTRACTED + "relation")
"""The metrics where there is room for one more."""

Scores = Mapping[str, Sequence[tuple[float, float]]]
"""One record's scores: metric to (right, wrong) of each question, in nats."""


def accuracy(right: float, wrong: float) -> float:
    """Return 1 if the question is answered right, otherwise 0."""
    return float(right > wrong)


def probability(right: float, _: float) -> float:
    """Return the probability of the right answer."""
    return math.exp(right)


def ngram_entropy(text: str) -> float:
    """Return FL, the weighted entropy of a text's 2- and 3-grams of words, in bits (ROME's paper).

    FL = (2/3 · H₂ + 4/3 · H₃) / 2. It is low if a text repeats itself.
    """
    words = re.findall(r"\w+|[^\w\s]", text)
    return (2 / 3 * _entropy(words, 2) + 4 / 3 * _entropy(words, 3)) / 2


def _entropy(words: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values())
