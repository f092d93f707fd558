"""Records to evaluate edits on, in any of four published formats, told apart by content.

Each format is a pydantic model, which gives the check, the error message and the JSON Schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import DataError

Text = Annotated[str, Field(min_length=1)]


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
    openings: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The fact up to its object."""
        return self.template.replace("{}", self.subject)

    @property
    def statement(self) -> str:
        """The edited fact as a sentence, put before a prompt to distract."""
        return f"{self.prompt} {self.target_new}."


def _first(value: Any) -> Any:
    """The first answer of a nest of lists of equally good ones."""
    while isinstance(value, list) and value:
        value = value[0]
    return value


Answer = Annotated[Text, BeforeValidator(_first)]


class _Format(BaseModel):
    """A published format; further keys are allowed and ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    def record(self, key: str) -> Record:
        raise NotImplementedError


def _template(prompt: str, subject: str) -> str:
    """``prompt`` with ``{}`` in the subject's place.

    Raises `ValueError` where that cannot be told.
    """
    if "{}" in prompt:
        if prompt.count("{}") > 1:
            raise ValueError(f"prompt: {prompt!r} holds '{{}}' more than once")
        return _only_braces(prompt)
    if not subject.strip() or subject not in prompt:
        raise ValueError(f"subject: {subject!r} is not in the prompt {prompt!r}")
    return _only_braces(prompt.replace(subject, "{}", 1))


def _only_braces(template: str) -> str:
    """The template; `ValueError` if it has a brace that `str.format`, as editors use it, minds."""
    if re.search("[{}]", template.replace("{}", "")):
        raise ValueError(f"prompt: {template!r} holds a brace besides the subject's '{{}}'")
    return template


class _Text(BaseModel):
    str_: Text = Field(alias="str")


class _CounterFactEdit(BaseModel):
    prompt: Text
    subject: Text
    target_new: _Text
    target_true: _Text


class CounterFact(_Format):
    """The original file of ROME and MEMIT."""

    requested_rewrite: _CounterFactEdit
    case_id: int | str | None = None
    paraphrase_prompts: list[Text] = []
    neighborhood_prompts: list[Text] = []
    generation_prompts: list[Text] = []

    def record(self, key: str) -> Record:
        """As a `Record`."""
        edit = self.requested_rewrite
        new, true = edit.target_new.str_, edit.target_true.str_
        return Record(
            key=key if self.case_id is None else str(self.case_id),
            subject=edit.subject,
            template=_template(edit.prompt, edit.subject),
            target_new=new,
            target_true=true,
            paraphrases=tuple(Question(p, new, true) for p in self.paraphrase_prompts),
            neighbours=tuple(Question(p, true, new) for p in self.neighborhood_prompts),
            openings=tuple(self.generation_prompts),
        )


class _MergedEdit(BaseModel):
    prompt: Text
    subject: Text
    target_new: Answer
    target_true: Answer


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


class Merged(_Format):
    """The format of the official SADR code, half CounterFact and half WikiData."""

    requested_rewrite: _MergedEdit
    rewrite: _Asked
    paraphrase: _Asked = Field(_Asked(), alias="p-paraphrase")
    subject_alias: _Asked = Field(_Asked(), alias="p-subject_alias")
    neighbor: _Asked = Field(_Asked(), alias="l-neighbor")
    relation: _Asked = Field(_Asked(), alias="l-relation")
    generation: _Asked = _Asked()

    def record(self, key: str) -> Record:
        """As a `Record`."""
        edit = self.requested_rewrite
        new, true = edit.target_new, edit.target_true
        return Record(
            key=key,
            subject=edit.subject,
            template=_template(edit.prompt, edit.subject),
            target_new=new,
            target_true=true,
            paraphrases=self.paraphrase.questions(wrong=true),
            aliases=self.subject_alias.questions(wrong=true),
            neighbours=self.neighbor.questions(wrong=new),
            relations=self.relation.questions(wrong=new),
            openings=tuple(self.generation.prompts),
        )


class _Fact(BaseModel):
    prompt: Text
    ground_truth: Answer


def _facts(group: dict[str, list[_Fact]], name: str, wrong: str) -> tuple[Question, ...]:
    return tuple(Question(f.prompt, f.ground_truth, wrong) for f in group.get(name, []))


class WikiData(_Format):
    """WikiData_counterfact of KnowEdit."""

    subject: Text
    prompt: Text
    target_new: Answer
    ground_truth: Answer
    portability: dict[str, list[_Fact]] = {}
    locality: dict[str, list[_Fact]] = {}

    def record(self, key: str) -> Record:
        """As a `Record`."""
        new, true = self.target_new, self.ground_truth
        aliases = _facts(self.portability, "Subject_Aliasing", true)
        return Record(
            key=key,
            subject=self.subject,
            template=_template(self.prompt, self.subject),
            target_new=new,
            target_true=true,
            # An alias's own answer is the new object, in other words perhaps.
            aliases=aliases,
            relations=_facts(self.locality, "Relation_Specificity", new),
        )


class ZsRE(_Format):
    """ZsRE as EasyEdit distributes it, under its older or newer names."""

    subject: Text
    prompt: Text = Field(alias="src")
    target_new: Answer = Field(alias="alt")
    ground_truth: Answer = Field(alias="answers")
    rephrase_prompt: Text | None = Field(None, alias="rephrase")
    loc: Text | None = None
    loc_ans: Answer | None = None

    def record(self, key: str) -> Record:
        """As a `Record`; its locality questions are about something else."""
        new, true = self.target_new, self.ground_truth
        paraphrases = (Question(self.rephrase_prompt, new, true),) if self.rephrase_prompt else ()
        neighbours = (
            (Question(self.loc.removeprefix("nq question: "), self.loc_ans, new),)
            if self.loc and self.loc_ans
            else ()
        )
        return Record(
            key=key,
            subject=self.subject,
            template=_template(self.prompt, self.subject),
            target_new=new,
            target_true=true,
            paraphrases=paraphrases,
            neighbours=neighbours,
        )


FORMATS: dict[str, type[_Format]] = {
    "CounterFact": CounterFact,
    "merged": Merged,
    "WikiData_counterfact": WikiData,
    "ZsRE": ZsRE,
}


def schema() -> dict[str, Any]:
    """The JSON Schema of a file of records: a list of any one of the formats."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "array",
        "items": {"anyOf": [form.model_json_schema(by_alias=True) for form in FORMATS.values()]},
    }


def _format_of(item: dict[str, Any]) -> type[_Format]:
    """Which format an item means to be, by its keys."""
    if "requested_rewrite" in item:
        return Merged if "rewrite" in item else CounterFact
    if {"src", "alt"} & item.keys() or {"rephrase_prompt", "rephrase", "loc"} & item.keys():
        return ZsRE
    return WikiData


@dataclass(frozen=True)
class Data:
    """What a file held.

    Attributes:
        records: the good records, in the file's order.
        skipped: what was wrong with the others, one line each.
    """

    records: list[Record]
    skipped: list[str]


BUILTIN = Path(__file__).with_name("builtin.json")
"""Edits of facts that SmolLM2-135M gets right, with paraphrases, neighbours and relations of which
it gets the last two right as well (at least twice as likely as the edit's new object)."""


def load(file: Path, skip_bad: bool = False) -> Data:
    """The records of a JSON list or a JSON Lines file.

    Args:
        file: the file, UTF-8.
        skip_bad: count bad records and go on, rather than stop at the first.

    Raises:
        DataError: naming the file and, where one is at fault, the record's number (from 0) and
            its field.
    """
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text: {error}") from None
    records: dict[str, Record] = {}
    skipped: list[str] = []
    for number, item in _items(content):
        try:
            record = _record(number, item)
            if record.key in records:
                raise ValueError(f"record {number}: case_id: {record.key} is an earlier record's")
            records[record.key] = record
        except ValueError as error:
            if not skip_bad:
                raise DataError(f"{file}: {error}") from None
            skipped.append(str(error))
    if not records:
        raise DataError(f"{file}: holds no usable record" + "".join(f"; {s}" for s in skipped[:3]))
    return Data(list(records.values()), skipped)


class _Broken(ValueError):
    """Text that is no JSON."""


def _items(content: str) -> Iterator[tuple[int, Any]]:
    """The items of a JSON list or of JSON Lines; one that is no JSON comes as a `_Broken`."""
    decoder = json.JSONDecoder()
    place = _skip(content, 0, "")
    listed = content[place : place + 1] == "["
    if listed:
        place += 1
    number = 0
    while True:
        place = _skip(content, place, "," if listed else "")
        if place >= len(content):
            if listed:
                yield number, _Broken("the list does not end")
            return
        if listed and content[place] == "]":
            return
        try:
            item, place = decoder.raw_decode(content, place)
        except (ValueError, RecursionError) as error:
            yield number, _Broken(str(error))
            end = content.find("\n", place)
            if listed or end < 0:
                return
            place = end  # a bad line of JSON Lines says nothing about the next
        else:
            yield number, item
        number += 1


def _skip(content: str, place: int, separators: str) -> int:
    while place < len(content) and (content[place].isspace() or content[place] in separators):
        place += 1
    return place


def _record(number: int, item: Any) -> Record:
    """Raises `ValueError` with the record's number and its field."""
    if isinstance(item, _Broken):
        raise ValueError(f"record {number}: is no JSON: {item}")
    if not isinstance(item, dict):
        raise ValueError(f"record {number}: expected an object, got {_short(item)}")
    try:
        return _format_of(item).model_validate(item).record(str(number))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(
            f"record {number}: {field}: {first['msg']}, got {_short(first['input'])}"
        ) from None
    except ValueError as error:
        raise ValueError(f"record {number}: {error}") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def sample(records: Sequence[Record], limit: int | None, seed: int) -> list[Record]:
    """``limit`` of the records, chosen by ``seed``, in the file's order; all if there is none."""
    import random

    if limit is None or limit >= len(records):
        return list(records)
    chosen = random.Random(seed).sample(range(len(records)), limit)
    return [records[index] for index in sorted(chosen)]
