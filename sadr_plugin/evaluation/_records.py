"""Records: edits, and the questions to ask before and after each edit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Question:
    """A prompt with its right answer and the wrong answer it is compared with.

    Attributes:
        prompt: the text before the answer.
        right: the right answer.
        wrong: the wrong answer.
    """

    prompt: str
    right: str
    wrong: str


@dataclass(frozen=True)
class Record:
    """One edit, and the questions to ask before and after it.

    Attributes:
        key: the name of the record: its number in the file's own numbering, or its place in the
            file.
        subject: the subject of the edited fact.
        template: the fact up to its object, with ``{}`` for the subject.
        target_new: the new object.
        target_true: the true object.
        paraphrases: the edited fact in other words. The right answer is the new object.
        aliases: the edited fact with another name for the subject. The right answer is the new
            object.
        neighbours: facts about other subjects. The wrong answer is the new object.
        relations: other facts about the subject. The wrong answer is the new object.
        consequences: facts that follow from the edited fact. The wrong answer is the true object.
        reminders: the edited fact as one that has more answers than the new object, which the
            prompt names. The wrong answer is the new object.
        openings: beginnings of texts, for fluency.
    """

    key: str
    subject: str
    template: str
    target_new: str
    target_true: str
    paraphrases: tuple[Question, ...] = ()
    aliases: tuple[Question, ...] = ()
    neighbours: tuple[Question, ...] = ()
    relations: tuple[Question, ...] = ()
    consequences: tuple[Question, ...] = ()
    reminders: tuple[Question, ...] = ()
    openings: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The fact up to its object."""
        return self.template.replace("{}", self.subject)

    @property
    def statement(self) -> str:
        """The edited fact as a sentence. It is put before a prompt to distract the model."""
        return f"{self.prompt} {self.target_new}."


QUESTIONS = ("paraphrases", "aliases", "neighbours", "relations", "consequences", "reminders")
"""The attributes of a record that hold questions."""


def sample(records: Sequence[Record], limit: int | None, seed: int) -> list[Record]:
    """Return ``limit`` records, chosen at random by ``seed``, in the order of the file.

    Returns:
        All records if ``limit`` is None or larger than their number.
    """
    if limit is None or limit >= len(records):
        return list(records)
    chosen = random.Random(seed).sample(range(len(records)), limit)
    return [records[index] for index in sorted(chosen)]


def weighable(record: Record) -> Record:
    """Return the record without questions whose right answer equals the wrong one.

    No model can answer such a question.

    Raises:
        ValueError: the new object is the true one.
    """
    if _same(record.target_new, record.target_true):
        raise ValueError(f"target_new: {record.target_new!r} is the true object as well")
    asked: dict[str, Any] = {
        kind: tuple(q for q in getattr(record, kind) if not _same(q.right, q.wrong))
        for kind in QUESTIONS
    }
    return replace(record, **asked)


def _same(one: str, other: str) -> bool:
    return one.strip() == other.strip()
