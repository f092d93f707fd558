"""Records: edits, and what to ask before and after each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A prompt with its right answer and the wrong one it is weighed against."""

    prompt: str
    right: str
    wrong: str


@dataclass(frozen=True)
class Record:
    """One edit, and what to ask before and after it.

    Attributes:
        key: names the record: the file's own number of it, or its place in the file.
        subject: what the edited fact is about.
        template: the fact up to its object, ``{}`` for the subject.
        target_new: the new object.
        target_true: the true object.
        paraphrases: the edited fact in other words; right is the new object.
        aliases: the edited fact with another name for the subject; right is the new object.
        neighbours: facts about other subjects; wrong is the new object.
        relations: other facts about the subject; wrong is the new object.
        consequences: what follows from the edited fact; wrong is the true object.
        reminders: the edited fact as one that has other answers besides the new object, which
            the prompt names; wrong is the new object.
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
        """The edited fact as a sentence, put before a prompt to distract."""
        return f"{self.prompt} {self.target_new}."


QUESTIONS = ("paraphrases", "aliases", "neighbours", "relations", "consequences", "reminders")
"""The attributes of a record that hold questions."""


def sample(records: Sequence[Record], limit: int | None, seed: int) -> list[Record]:
    """``limit`` of the records, chosen by ``seed``, in the file's order; all if there is none."""
    if limit is None or limit >= len(records):
        return list(records)
    chosen = random.Random(seed).sample(range(len(records)), limit)
    return [records[index] for index in sorted(chosen)]
