"""The published formats of records, told apart by content.

Each is a pydantic model, which gives the check, the error message and the JSON Schema.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ._records import Question, Record

Text = Annotated[str, Field(min_length=1)]


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


def _edit(key: str, subject: str, prompt: str, new: str, true: str) -> Record:
    """A record with its edit and no questions yet; `ValueError` as for `_template`."""
    return Record(key, subject, _template(prompt, subject), new, true)


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
        key = key if self.case_id is None else str(self.case_id)
        return replace(
            _edit(key, edit.subject, edit.prompt, new, true),
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
        return replace(
            _edit(key, edit.subject, edit.prompt, new, true),
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
        return replace(
            _edit(key, self.subject, self.prompt, new, true),
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
        return replace(
            _edit(key, self.subject, self.prompt, new, true),
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


def as_record(item: Any, key: str) -> Record:
    """The record that an item of a file holds.

    Args:
        item: as JSON gave it.
        key: the record's key where the item has none of its own.

    Raises:
        ValueError: naming the field that is at fault.
    """
    if not isinstance(item, dict):
        raise ValueError(f"expected an object, got {_short(item)}")
    try:
        return _format_of(item).model_validate(item).record(key)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{field}: {first['msg']}, got {_short(first['input'])}") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
