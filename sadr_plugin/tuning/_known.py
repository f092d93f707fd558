"""What a model knows: only that can an edit change, and only that can it break."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import DataError
from ..evaluation import Question, Record, Scorer

TO_KEEP = ("neighbours", "relations")
"""The attributes of a record whose questions an edit is to leave alone."""

LEAST = 8
"""Records without which nothing can be chosen and judged."""


@dataclass(frozen=True)
class Known:
    """What of some records a model knows.

    Attributes:
        records: those whose edited fact it knows and of which it knows something to keep, with
            the questions to keep that it answers right.
        unknown: how many records it does not know the fact of.
        nothing_to_keep: how many have no question to keep that it answers right.
        dropped: how many questions to keep were left out of ``records``.
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
    """What the unedited model knows: where the right answer is likelier than the wrong one.

    Args:
        records: what to ask about.
        scorer: of the unedited model.
        on_record: told each record once it has been asked about.
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
    pairs = [(q.prompt, answer) for q in asked for answer in (q.right, q.wrong)]
    likely = [answer.mean_log_probability for answer in scorer.answers(pairs)]
    return [likely[place] > likely[place + 1] for place in range(0, len(likely), 2)]


def split(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    """Two halves: to choose settings on, and to judge them on. Records of one subject stay
    together, so that nothing of what is judged has been seen.

    Raises:
        DataError: there are too few records.
    """
    if len(records) < LEAST:
        raise DataError(
            f"the model knows {len(records)} of the records, and something to keep of each; "
            f"{LEAST} at least are needed to choose settings and to judge them"
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
            "settings are judged on others than they were chosen on"
        )
    return chosen, judged
