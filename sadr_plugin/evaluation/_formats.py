"""The published formats of records. The content of an item tells its format.

Each format is a pydantic model. It gives the checks, the error messages and the JSON Schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import models_json_schema

from ._records import QUESTIONS, Question, Record
from ._subjects import find_subject


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


Text = Annotated[str, Field(min_length=1), AfterValidator(_not_blank)]


def _present(value: Any) -> Any:
    """Return a value, or None if it is empty: an empty list, or only empty texts."""
    texts = value if isinstance(value, list) else [value]
    empty = all(text is None or (isinstance(text, str) and not text.strip()) for text in texts)
    return None if empty else value


def _first(value: Any) -> Any:
    """Return the first answer from nested lists of equally good answers."""
    while isinstance(value, list) and value:
        value = value[0]
    return value


# The schema describes the content of a file. By default it would not include the lists.
_NEST = {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1}]}
Answer = Annotated[Text, BeforeValidator(_first), WithJsonSchema(_NEST)]
Prompts = Annotated[str | list[str | None] | None, BeforeValidator(_present)]
"""One prompt or several. Empty ones do not count."""


def _only_one(value: Any) -> Any:
    """Return the one edit of a list.

    Raises:
        ValueError: the list has several.
    """
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise ValueError(
            f"a list of {len(value)} edits; every record here is one edit, so records of several "
            "(as in MQuAKE) cannot be read"
        )
    return value[0]


class _Format(BaseModel):
    """A published format. Further keys are allowed and ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    def record(self, key: str) -> Record:
        raise NotImplementedError

    def groups_not_asked(self) -> list[str]:
        """Return the names of unknown groups of questions, such as ``portability.Other``."""
        return []


def _edit(key: str, subject: str, prompt: str, new: str, true: str) -> Record:
    """Return a record with its edit and without questions.

    Raises:
        ValueError: see `_template`.
    """
    return Record(key, subject, _template(prompt, subject), new, true)


def _template(prompt: str, subject: str) -> str:
    """Return ``prompt`` with ``{}`` in the place of the subject.

    Raises:
        ValueError: the place of the subject is not clear, or the prompt has other braces.
    """
    if "{}" in prompt:
        if prompt.count("{}") > 1:
            raise ValueError(f"prompt: {prompt!r} holds '{{}}' more than once")
        return only_braces(prompt)
    start = find_subject(subject, prompt)
    return only_braces(f"{prompt[:start]}{{}}{prompt[start + len(subject) :]}")


def only_braces(template: str) -> str:
    """Return the template unchanged if it has no other braces than ``{}``.

    Editors use `str.format` on it.

    Raises:
        ValueError: it has another brace.
    """
    if re.search("[{}]", template.replace("{}", "")):
        raise ValueError(f"prompt: {template!r} holds a brace besides the subject's '{{}}'")
    return template


def _of_object(value: Any) -> Any:
    """Return the text of an object that is written as ``{"str": …}``."""
    return value["str"] if isinstance(value, dict) and "str" in value else value


_WRITTEN = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "properties": {"str": {"type": "string", "minLength": 1}},
            "required": ["str"],
        },
    ]
}
Object = Annotated[Text, BeforeValidator(_of_object), WithJsonSchema(_WRITTEN)]


class _CounterFactEdit(BaseModel):
    prompt: Text
    subject: Text
    target_new: Object
    target_true: Object


class _CounterFactQuestions(_Format):
    case_id: int | str | None = None
    paraphrase_prompts: list[Text] = []
    neighborhood_prompts: list[Text] = []
    generation_prompts: list[Text] = []

    def _record(self, key: str, edit: _CounterFactEdit | FlatCounterFact) -> Record:
        new, true = edit.target_new, edit.target_true
        key = key if self.case_id is None else str(self.case_id)
        return replace(
            _edit(key, edit.subject, edit.prompt, new, true),
            paraphrases=tuple(Question(p, new, true) for p in self.paraphrase_prompts),
            neighbours=tuple(Question(p, true, new) for p in self.neighborhood_prompts),
            openings=tuple(self.generation_prompts),
        )


class CounterFact(_CounterFactQuestions):
    """The original file format of ROME and MEMIT. MQuAKE's single edits have it, too."""

    requested_rewrite: Annotated[_CounterFactEdit, BeforeValidator(_only_one)]
    questions: Any = None

    def record(self, key: str) -> Record:
        """Return the item as a `Record`."""
        return self._record(key, self.requested_rewrite)

    def groups_not_asked(self) -> list[str]:
        """Return MQuAKE's questions of several hops, if the item has them."""
        return ["questions"] if self.questions else []


class FlatCounterFact(_CounterFactQuestions):
    """CounterFact's keys on one level, as in the data of some research code."""

    prompt: Text
    subject: Text
    target_new: Object
    target_true: Object

    def record(self, key: str) -> Record:
        """Return the item as a `Record`."""
        return self._record(key, self)


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
    """The format of the official SADR code's data: half CounterFact, half WikiData."""

    model_config = ConfigDict(extra="allow")

    requested_rewrite: _MergedEdit
    rewrite: _Asked
    paraphrase: _Asked = Field(_Asked(), alias="p-paraphrase")
    subject_alias: _Asked = Field(_Asked(), alias="p-subject_alias")
    neighbor: _Asked = Field(_Asked(), alias="l-neighbor")
    relation: _Asked = Field(_Asked(), alias="l-relation")
    generation: _Asked = _Asked()

    def record(self, key: str) -> Record:
        """Return the item as a `Record`."""
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

    def groups_not_asked(self) -> list[str]:
        """Return the names of other groups, such as ``p-reasoning``."""
        return [name for name in self.model_extra or {} if name.startswith(("p-", "l-", "o-"))]


def _listed(prompts: str | list[str | None] | None) -> list[str]:
    """Return the prompts that are not empty."""
    listed = prompts if isinstance(prompts, list) else [prompts]
    return [prompt for prompt in listed if prompt and prompt.strip()]


def _questions(
    prompts: str | list[str | None] | None, answers: Any, wrong: str, field: str
) -> Iterator[Question]:
    """Yield questions. One without a prompt or without an answer is left out, as in EasyEdit.

    Lists of the same length are read in pairs. Otherwise the first prompt has the first answer, as
    in EasyEdit's class of this data.

    Args:
        prompts: one prompt or several.
        answers: the answers. Each can be a list of equally good ones.
        wrong: the wrong answer.
        field: the key of the answers, for the error.

    Raises:
        ValueError: an answer is no text.
    """
    listed = prompts if isinstance(prompts, list) else [prompts]
    if len(listed) > 1 and isinstance(answers, list) and len(answers) == len(listed):
        pairs: list[tuple[str | None, Any]] = list(zip(listed, answers, strict=True))
    else:
        pairs = [(prompt, answers) for prompt in _listed(prompts)[:1]]
    for prompt, answer in pairs:
        right = _first(answer)
        if right is not None and right != [] and not isinstance(right, str):
            raise ValueError(f"{field}: expected text, got {_short(right)}")
        if prompt and prompt.strip() and right and right.strip():
            yield Question(prompt, right, wrong)


class _Facts(BaseModel):
    """Questions with their answers: one of each, or lists."""

    prompt: Prompts = None
    ground_truth: Any = None

    def questions(self, wrong: str) -> Iterator[Question]:
        """Yield the questions; see `_questions`."""
        return _questions(self.prompt, self.ground_truth, wrong, "ground_truth")


ONE_HOP = ("New Question", "New Answer")
"""The keys of a question of one hop more, in EasyEdit's ZsRE file for portability."""

DESCRIBED = "Recalled Relation"
"""The key beside them that only describes the question."""


def _one_hop(value: Any) -> Any:
    """Return groups of questions, also from a flat mapping with one question of texts."""
    if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in ONE_HOP):
        return _present(value)
    others = {name: group for name, group in value.items() if name not in (*ONE_HOP, DESCRIBED)}
    question, answer = (value[key] for key in ONE_HOP)
    return {**others, "Reasoning": {"prompt": question, "ground_truth": answer}}


Group = Annotated[list[_Facts] | _Facts | str | None, BeforeValidator(_present)]
Groups = Annotated[dict[str, Group] | None, BeforeValidator(_one_hop)]


def _asked(groups: Groups, names: Sequence[str], wrong: str) -> tuple[Question, ...]:
    """Return the questions of some groups."""
    facts: list[_Facts] = []
    for name in names:
        group = (groups or {}).get(name) or []
        if not isinstance(group, str):  # a text alone asks nothing
            facts += group if isinstance(group, list) else [group]
    return tuple(question for fact in facts for question in fact.questions(wrong))


ALIASES, CONSEQUENCES = ("Subject_Aliasing",), ("Reasoning", "Logical_Generalization")
RELATIONS, REMINDERS = ("Relation_Specificity",), ("Forgetfulness",)
"""KnowEdit's groups of questions, by the kind of question in a `Record`."""

ASKED = {"portability": ALIASES + CONSEQUENCES, "locality": RELATIONS + REMINDERS}


class KnowEdit(_Format):
    """KnowEdit's sets (ZsRE, WikiData_counterfact), and EasyEdit's CounterFact and earlier ZsRE.

    The first of several equally good answers counts, as in EasyEdit. Null and empty values count as
    absent.
    """

    subject: Text
    prompt: Text
    target_new: Answer
    ground_truth: Answer
    rephrase_prompt: Prompts = None
    loc: Prompts = None
    loc_ans: Any = None
    locality_prompt: Prompts = None
    locality_ground_truth: Any = None
    portability: Groups = None
    locality: Groups = None

    def record(self, key: str) -> Record:
        """Return the item as a `Record`."""
        new, true = self.target_new, self.ground_truth
        return replace(
            _edit(key, self.subject, self.prompt, new, true),
            paraphrases=tuple(Question(p, new, true) for p in _listed(self.rephrase_prompt)),
            # The answer for an alias is the new object, possibly in other words.
            aliases=_asked(self.portability, ALIASES, true),
            consequences=_asked(self.portability, CONSEQUENCES, true),
            relations=_asked(self.locality, RELATIONS, new),
            reminders=_asked(self.locality, REMINDERS, new),
            neighbours=tuple(self._neighbours(new)),
        )

    def _neighbours(self, new: str) -> Iterator[Question]:
        """Yield the questions about other subjects, under the earlier and the newer keys."""
        for prompts, answers, field in (
            (self.loc, self.loc_ans, "loc_ans"),
            (self.locality_prompt, self.locality_ground_truth, "locality_ground_truth"),
        ):
            for question in _questions(prompts, answers, new, field):
                yield replace(question, prompt=question.prompt.removeprefix("nq question: "))

    def groups_not_asked(self) -> list[str]:
        """Return the names of the groups that KnowEdit does not have."""
        return [
            f"{field}.{name}"
            for field, known in ASKED.items()
            for name, facts in (getattr(self, field) or {}).items()
            if name not in known and facts
        ]


class ZsRE(KnowEdit):
    """ZsRE with the key names of MEND, which EasyEdit also reads."""

    prompt: Text = Field(alias="src")
    target_new: Answer = Field(alias="alt")
    ground_truth: Answer = Field(alias="answers")
    rephrase_prompt: Prompts = Field(None, alias="rephrase")


FORMATS: dict[str, type[_Format]] = {
    "CounterFact": CounterFact,
    "flat CounterFact": FlatCounterFact,
    "merged": Merged,
    "KnowEdit": KnowEdit,
    "ZsRE": ZsRE,
}


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a file of records: a list of items in any of the formats."""
    forms, definitions = models_json_schema(
        [(form, "validation") for form in FORMATS.values()], by_alias=True
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "array",
        "items": {"anyOf": list(forms.values())},
        **definitions,
    }


_MARKS = ("requested_rewrite", "subject", "prompt", "target_new", "src", "alt")
"""A record of any format has one of these keys, and a text or an edit under it."""


def is_record(item: dict[str, Any], of_columns: bool = False) -> bool:
    """Whether an object has a key of a record.

    Args:
        item: the decoded JSON.
        of_columns: whether to look for keys that hold a value for each record.
    """
    if of_columns:
        return any(isinstance(item.get(mark), dict) for mark in _MARKS)
    return any(mark in item and not _is_column(item[mark], mark) for mark in _MARKS)


def _is_column(value: Any, mark: str) -> bool:
    return isinstance(value, dict) and mark != "requested_rewrite" and "str" not in value


def _format_of(item: dict[str, Any]) -> type[_Format]:
    """Return the format that an item's keys suggest.

    Raises:
        ValueError: they suggest none.
    """
    if "requested_rewrite" in item:
        return Merged if "rewrite" in item else CounterFact
    if {"src", "alt", "answers", "rephrase"} & item.keys():
        return ZsRE
    if "target_true" in item:
        return FlatCounterFact
    if {"subject", "prompt", "target_new"} & item.keys():
        return KnowEdit
    keys = ", ".join(map(repr, list(item)[:6])) or "no keys"
    raise ValueError(
        f"is in none of the known formats ({', '.join(FORMATS)}): it has {keys}. An edit needs "
        "subject, prompt, target_new and the true object"
    )


def _refuse_without_object(item: dict[str, Any]) -> None:
    """Refuse items of KnowEdit's sets without a true object.

    Every score here compares the new object with the true one.

    Raises:
        ValueError: the item has no true object.
    """
    if "concept" in item and "labels" in item:
        raise ValueError("concept: a text of WikiBio has no object to edit")
    known = {"subject", "prompt", "target_new"} <= item.keys() and "target_true" not in item
    if known and _present(_first(item.get("ground_truth"))) is None:
        raise ValueError(
            "ground_truth: is missing or empty, as in WikiData_recent; every score compares the "
            "new object with the true one. Add it, or use ZsRE or WikiData_counterfact"
        )


def parse(item: Any) -> _Format:
    """Parse an item of a file in any format. Its method ``record`` returns it as a `Record`.

    Args:
        item: the decoded JSON.

    Raises:
        ValueError: the item fits no format. The message names the field.
    """
    if not isinstance(item, dict):
        raise ValueError(f"expected an object, got {_short(item)}")
    _refuse_without_object(item)
    format = _format_of(item)
    try:
        return format.model_validate(item)
    except ValidationError as error:
        found = error.errors()[0]
        # Pydantic names the branch of a union by its type, which is no key of the file.
        keys = [str(part) for part in found["loc"] if not _NO_KEY.search(str(part))]
        problem = _PROBLEMS.get(found["type"], found["msg"].removeprefix("Value error, "))
        given = "" if found["type"] == "missing" else f", got {_short(found['input'])}"
        raise ValueError(f"{'.'.join(keys)}: {problem}{given}") from None


_NO_KEY = re.compile(r"^_|\[|^(str|function-|constrained-)")

_PROBLEMS = {
    "missing": "is missing",
    "model_type": "expected an object",
    "dict_type": "expected an object",
    "list_type": "expected a list",
    "string_type": "expected text",
}
"""What is wrong, by pydantic's name. Its own words may name its classes."""


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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
