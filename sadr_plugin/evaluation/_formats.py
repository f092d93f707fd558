"""The published formats of records. The content of an item tells its format.

Each format is a pydantic model. It gives the checks, the error messages and the JSON Schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.json_schema import models_json_schema
from pydantic_core import ErrorDetails

from ..editor import Question, Record
from ._fields import Answer, Prompts, Text, first, listed, present, shortened, template_of
from ._groups import (
    ALIASES,
    ASKED,
    CONSEQUENCES,
    RELATIONS,
    REMINDERS,
    not_asked,
    one_hop,
    questions,
    questions_of,
)
from ._items import is_flat


class _Prompted(BaseModel):
    prompt: Text
    target: Answer


Neighbours = Annotated[
    list[str | _Prompted | None] | str | _Prompted | None, BeforeValidator(present)
]
"""Prompts about other subjects. One without an answer of its own has the true object."""


def _neighbours(asked: Neighbours, new: str, true: str) -> Iterator[Question]:
    for one in asked if isinstance(asked, list) else [asked]:
        if isinstance(one, _Prompted):
            yield Question(one.prompt, one.target, new)
        elif one and one.strip():
            yield Question(one, true, new)


class Format(BaseModel):
    """A published format. Further keys are allowed and ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    def own_key(self) -> str | None:
        """Return the name that the item gives itself, if there is one."""
        return None

    def record(self, key: str) -> Record:
        """Return the item as a `Record` of this name.

        Raises:
            ValueError: the subject has no clear place in the prompt, or a question is malformed.
        """
        raise NotImplementedError

    def groups_not_asked(self) -> list[str]:
        """Return the names of unknown groups of questions, such as ``portability.Other``."""
        return []


class _Numbered(Format):
    case_id: Annotated[int | str | None, BeforeValidator(present)] = None

    def own_key(self) -> str | None:
        """Return the item's ``case_id``."""
        return None if self.case_id is None else str(self.case_id)


class _Grouped(Format):
    """A format that may have KnowEdit's groups of questions."""

    portability: Any = Field(None, description="groups of questions that the edit should change")
    locality: Any = Field(None, description="groups of questions that it should not change")

    def grouped(self, record: Record) -> Record:
        """Return a record with the questions of the groups."""
        new, true = record.target_new, record.target_true
        follow = questions_of(self.portability, CONSEQUENCES, true)
        return replace(
            record,
            # The answer for an alias is the new object, possibly in other words.
            aliases=questions_of(self.portability, ALIASES, true),
            consequences=follow + one_hop(self.portability, true),
            relations=questions_of(self.locality, RELATIONS, new),
            reminders=questions_of(self.locality, REMINDERS, new),
        )

    def groups_not_asked(self) -> list[str]:
        """Return the names of the groups that KnowEdit does not have."""
        return [name for field in ASKED for name in not_asked(field, getattr(self, field))]


class _Edit(BaseModel):
    prompt: Text
    subject: Text
    target_new: Answer
    target_true: Answer

    def record(self, key: str) -> Record:
        """Return the edit without questions."""
        template = template_of(self.prompt, self.subject)
        return Record(key, self.subject, template, self.target_new, self.target_true)


class CounterFact(_Numbered, _Grouped):
    """The original file format of ROME and MEMIT, and MQuAKE's items with a single edit."""

    requested_rewrite: _Edit | Annotated[list[_Edit], Field(min_length=1, max_length=1)]
    paraphrase_prompts: Prompts = None
    neighborhood_prompts: Neighbours = None
    generation_prompts: Prompts = None
    questions: Prompts = None
    answer: Any = None
    new_answer: Any = None
    single_hops: Any = None
    new_single_hops: Any = None

    def record(self, key: str) -> Record:
        """Return the item as a `Record`. MQuAKE's questions are consequences of the edit."""
        rewrite = self.requested_rewrite
        record = (rewrite[0] if isinstance(rewrite, list) else rewrite).record(key)
        new, true = record.target_new, record.target_true
        grouped = self.grouped(record)
        return replace(
            grouped,
            paraphrases=tuple(Question(p, new, true) for p in listed(self.paraphrase_prompts)),
            neighbours=tuple(_neighbours(self.neighborhood_prompts, new, true)),
            consequences=grouped.consequences + tuple(self._hops(true)),
            openings=tuple(listed(self.generation_prompts)),
        )

    def _hops(self, true: str) -> Iterator[Question]:
        """Yield MQuAKE's questions. The wrong answer is the one before the edit."""
        before = first(self.answer)
        wrong = before if isinstance(before, str) and before.strip() else true
        for prompt in listed(self.questions):
            yield from questions(prompt, self.new_answer, wrong, "new_answer")

    def groups_not_asked(self) -> list[str]:
        """Return the names of KnowEdit's and MQuAKE's groups that are not asked."""
        hops = ("single_hops", "new_single_hops")
        return super().groups_not_asked() + [name for name in hops if present(getattr(self, name))]


class _Asked(BaseModel):
    prompts: list[Text] = []
    targets: list[Answer] = []

    def questions(self, wrong: str) -> tuple[Question, ...]:
        if len(self.prompts) != len(self.targets):
            raise ValueError(f"{len(self.prompts)} prompts, but {len(self.targets)} targets")
        return tuple(
            Question(prompt, right, wrong)
            for prompt, right in zip(self.prompts, self.targets, strict=True)
        )


class Merged(Format):
    """The format of the official SADR code's data: half CounterFact, half WikiData."""

    model_config = ConfigDict(extra="allow")

    requested_rewrite: _Edit
    rewrite: _Asked
    paraphrase: _Asked = Field(_Asked(), alias="p-paraphrase")
    subject_alias: _Asked = Field(_Asked(), alias="p-subject_alias")
    neighbor: _Asked = Field(_Asked(), alias="l-neighbor")
    relation: _Asked = Field(_Asked(), alias="l-relation")
    generation: _Asked = _Asked()

    def record(self, key: str) -> Record:
        """Return the item as a `Record`."""
        record = self.requested_rewrite.record(key)
        new, true = record.target_new, record.target_true
        return replace(
            record,
            paraphrases=self.paraphrase.questions(wrong=true),
            aliases=self.subject_alias.questions(wrong=true),
            neighbours=self.neighbor.questions(wrong=new),
            relations=self.relation.questions(wrong=new),
            openings=tuple(self.generation.prompts),
        )

    def groups_not_asked(self) -> list[str]:
        """Return the names of other groups, such as ``p-reasoning``."""
        return [name for name in self.model_extra or {} if name.startswith(("p-", "l-", "o-"))]


class KnowEdit(_Grouped):
    """KnowEdit's sets (ZsRE, WikiData_counterfact), and EasyEdit's CounterFact and earlier ZsRE.

    The first of several equally good answers counts, as in EasyEdit. Null and empty values count as
    absent. Every flat format may have the questions of any other.
    """

    subject: Text
    prompt: Text
    target_new: Answer
    ground_truth: Answer
    rephrase_prompt: Prompts = None
    rephrase: Prompts = None
    paraphrase_prompts: Prompts = None
    loc: Prompts = None
    loc_ans: Any = None
    locality_prompt: Prompts = None
    locality_ground_truth: Any = None
    neighborhood_prompts: Neighbours = None
    generation_prompts: Prompts = None

    def record(self, key: str) -> Record:
        """Return the item as a `Record`."""
        new, true = self.target_new, self.ground_truth
        template = template_of(self.prompt, self.subject)
        reworded = (self.rephrase_prompt, self.rephrase, self.paraphrase_prompts)
        return replace(
            self.grouped(Record(key, self.subject, template, new, true)),
            paraphrases=tuple(Question(p, new, true) for ps in reworded for p in listed(ps)),
            neighbours=tuple(self._others(new, true)),
            openings=tuple(listed(self.generation_prompts)),
        )

    def _others(self, new: str, true: str) -> Iterator[Question]:
        """Yield the questions about other subjects, under all of their keys."""
        for prompts, answers, field in (
            (self.loc, self.loc_ans, "loc_ans"),
            (self.locality_prompt, self.locality_ground_truth, "locality_ground_truth"),
        ):
            for question in questions(prompts, answers, new, field):
                yield replace(question, prompt=question.prompt.removeprefix("nq question: "))
        yield from _neighbours(self.neighborhood_prompts, new, true)


class ZsRE(KnowEdit):
    """ZsRE with the key names of MEND, which EasyEdit also reads."""

    prompt: Text = Field(alias="src")
    target_new: Answer = Field(alias="alt")
    ground_truth: Answer = Field(alias="answers")


class FlatCounterFact(_Numbered, KnowEdit):
    """CounterFact's keys without ``requested_rewrite`` around those of the edit."""

    ground_truth: Answer = Field(alias="target_true")


FLAT: tuple[type[KnowEdit], ...] = (KnowEdit, ZsRE, FlatCounterFact)
FORMATS: tuple[type[Format], ...] = (CounterFact, FlatCounterFact, Merged, KnowEdit, ZsRE)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a list of records: of items in any of the formats."""
    forms, definitions = models_json_schema(
        [(form, "validation") for form in FORMATS], by_alias=True
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "array",
        "items": {"anyOf": list(forms.values())},
        **definitions,
    }


def _format_of(item: dict[str, Any]) -> type[Format]:
    """Return the format that an item's keys suggest: of the flat ones, the most complete."""
    if "requested_rewrite" in item:
        return Merged if "rewrite" in item else CounterFact
    return max(FLAT, key=lambda form: sum(_has(item, key) for key in _required(form)))


def _required(form: type[Format]) -> list[str]:
    return [f.alias or name for name, f in form.model_fields.items() if f.is_required()]


def _completed(item: dict[str, Any], form: type[Format]) -> dict[str, Any]:
    """Return an item with its format's keys of the edit, where those of another format stand."""
    whole = dict(item)
    if form in FLAT:
        for name in ("prompt", "target_new", "ground_truth"):
            key, *others = (f.model_fields[name].alias or name for f in (form, *FLAT))
            for other in others:
                if _has(item, other) and not _has(whole, key):
                    whole[key] = item[other]
    return whole


def _has(item: dict[str, Any], key: str) -> bool:
    return present(first(item.get(key))) is not None


TRUE = ("ground_truth", "target_true", "answers")
"""The keys of the true object in the flat formats."""


def _refuse_unusable(item: dict[str, Any]) -> None:
    """Refuse items that hold no edit that can be evaluated, as in some published sets.

    Raises:
        ValueError: the item has no edit, or several, or one without a subject or a true object.
    """
    edits, edit = item.get("requested_rewrite"), item.get("edit")
    if isinstance(edits, list) and len(edits) != 1:
        raise ValueError(
            f"requested_rewrite: a list of {len(edits)} edits; every record here is one edit"
        )
    if "requested_rewrite" in item:
        return
    if is_flat(item):
        if "target_new" in item and not any(_has(item, key) for key in TRUE):
            raise ValueError(
                "ground_truth: is missing or empty, and every score compares the new object with "
                "the true one. Add it, as ground_truth or target_true"
            )
    elif "concept" in item and "labels" in item:
        raise ValueError("concept: a text about a concept has no object to edit")
    elif isinstance(edit, dict) and "subject_id" in edit and "subject" not in edit:
        raise ValueError("edit: has the id of its subject, and not the text that an edit needs")
    elif isinstance(edit, dict) and not any(_has(edit, key) for key in TRUE):
        raise ValueError(
            "edit: its true object is missing or empty, and every score compares the new object "
            "with the true one"
        )
    else:
        keys = ", ".join(shortened(key) for key in list(item)[:6]) or "no keys"
        raise ValueError(
            f"is in no known format: it has {keys}. An edit needs subject, prompt, target_new and "
            "the true object"
        )


def parse(item: Any) -> Format:
    """Parse an item of a file in any format. Its method ``record`` returns it as a `Record`.

    Args:
        item: the decoded JSON.

    Raises:
        ValueError: the item fits no format. The message names the field.
    """
    if not isinstance(item, dict):
        raise ValueError(f"expected an object, got {shortened(item)}")
    _refuse_unusable(item)
    form = _format_of(item)
    try:
        return form.model_validate(_completed(item, form))
    except ValidationError as error:
        raise ValueError(_problem(item, error)) from None


def _problem(item: dict[str, Any], error: ValidationError) -> str:
    """Return the most specific of the problems, with the path of its value in the item."""
    found = [(_path(item, problem), problem) for problem in error.errors()]
    path, problem = max(found, key=lambda one: len(one[0]))
    what = _PROBLEMS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    given = "" if problem["type"] == "missing" else f", got {shortened(problem['input'])}"
    return f"{'.'.join(map(str, path))}: {what}{given}"


_PROBLEMS = {
    "missing": "is missing",
    "model_type": "expected an object",
    "list_type": "expected a list",
    "string_type": "expected text",
    "string_unicode": "expected Unicode text",
}
"""What is wrong, by pydantic's name. Its own words may name its classes."""


def _path(item: Any, problem: ErrorDetails) -> list[int | str]:
    """Return pydantic's place of a value without the types of a union that pydantic tried."""
    path: list[int | str] = []
    missing = problem["loc"][-1] if problem["type"] == "missing" else None
    for part in problem["loc"]:
        keys = item if isinstance(item, dict) else range(len(item) if isinstance(item, list) else 0)
        if part in keys:
            item = item[part]
        elif part != missing:
            continue
        path.append(part)
    return path
