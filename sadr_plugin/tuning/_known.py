"""Selects the records that a model knows.

An edit can only change a fact that the model knows. It can only break an answer that was right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import DataError
from ..evaluation import Question, Record, Scorer

TO_KEEP = ("neighbours", "relations")
"""The attributes of a record with the questions whose answers an edit should not change."""

LEAST = 8
"""The smallest number of known records with which settings can be chosen and tested."""


@dataclass(frozen=True)
class Known:
    """The records that a model knows.

    Attributes:
        records: the records whose fact the model knows, with at least one question to keep.
            Questions to keep that the model answers wrong are left out of them.
        unknown: the number of records whose fact the model does not know.
        nothing_to_keep: the number of other records without a question to keep that the model
            answers right.
        dropped: the number of questions to keep that were left out of ``records``.
    """

    records: list[Record]
    unknown: int
    nothing_to_keep: int
    dropped: int


def known(
    records: Sequence[Record],
    scorer: Scorer,
    on_record: Callable[[Record], None] = lambda record: None,
) -> Known:
    """Ask the unedited model, and return the records that it knows.

    The model knows an answer if the right answer is more probable than the wrong one.

    Args:
        records: the records to ask about.
        scorer: the scorer of the unedited model.
        on_record: called with each record after its questions.
    """
    found: list[Record] = []
    unknown = nothing = dropped = 0
    for record in records:
        fact = Question(record.prompt, record.target_true, record.target_new)
        to_keep = {name: getattr(record, name) for name in TO_KEEP}
        asked = [fact, *(question for questions in to_keep.values() for question in questions)]
        right = dict(zip(asked, _right(scorer, asked), strict=True))
        on_record(record)
        if not right[fact]:
            unknown += 1
            continue
        kept: dict[str, Any] = {
            name: tuple(q for q in questions if right[q]) for name, questions in to_keep.items()
        }
        if not any(kept.values()):
            nothing += 1
            continue
        dropped += sum(len(to_keep[name]) - len(kept[name]) for name in TO_KEEP)
        found.append(replace(record, **kept))
    return Known(found, unknown, nothing, dropped)


def _right(scorer: Scorer, asked: Sequence[Question]) -> list[bool]:
    """Return, for each question, whether the right answer is more probable than the wrong one."""
    pairs = [(q.prompt, answer) for q in asked for answer in (q.right, q.wrong)]
    likely = [answer.mean_log_probability for answer in scorer.answers(pairs)]
    return [likely[place] > likely[place + 1] for place in range(0, len(likely), 2)]


def split(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """Split records into two halves: one for choosing settings, and one for testing them.

    All records of one subject go into the same half. So the test asks about new subjects only.

    Args:
        records: the records that the model knows.
        seed: the random seed of the split.

    Returns:
        The records for choosing, then the records for testing.

    Raises:
        DataError: there are too few records, or they are about too few subjects.
    """
    if len(records) < LEAST:
        raise DataError(
            f"the model knows {len(records)} of the records, each with an answer to keep; at "
            f"least {LEAST} are needed to choose settings and to test them"
        )
    of_subject: dict[str, list[Record]] = {}
    for record in records:
        of_subject.setdefault(record.subject.casefold(), []).append(record)
    groups = list(of_subject.values())
    random.Random(seed).shuffle(groups)
    chosen: list[Record] = []
    judged: list[Record] = []
    for group in groups:
        (chosen if len(chosen) <= len(judged) else judged).extend(group)
    if min(len(chosen), len(judged)) < LEAST // 2:
        raise DataError(
            f"the records that the model knows are about too few subjects: {len(of_subject)}; "
            "settings are tested on other subjects than they were chosen on"
        )
    return chosen, judged
