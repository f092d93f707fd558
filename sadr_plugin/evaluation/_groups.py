"""KnowEdit's groups of questions, ``portability`` and ``locality``, in their published layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..editor import Question
from ._fields import first, listed, present, shortened, text_of

ALIASES, CONSEQUENCES = ("Subject_Aliasing",), ("Reasoning", "Logical_Generalization")
RELATIONS, REMINDERS = ("Relation_Specificity",), ("Forgetfulness",)
"""The names of groups, by the kind of question in a `Record`."""

ASKED = {"portability": ALIASES + CONSEQUENCES, "locality": RELATIONS + REMINDERS}
"""The groups that are asked, by the key that holds them."""

ONE_HOP = ("New Question", "New Answer")
"""The question that follows from the edit in EasyEdit's earlier files: texts in place of groups."""

DESCRIBED = "Recalled Relation"
"""The key that says, in such a file, from which fact the question follows. It is no question."""


def questions_of(groups: Any, names: Sequence[str], wrong: str) -> tuple[Question, ...]:
    """Return the questions of some groups.

    Args:
        groups: the value of ``portability`` or ``locality``.
        names: the names of the groups.
        wrong: the wrong answer.

    Raises:
        ValueError: a prompt or an answer is no text.
    """
    found: list[Question] = []
    for name in names:
        group = groups.get(name) if isinstance(groups, dict) else None
        for fact in _facts(group) or ():
            field = f"{name}.ground_truth"
            found += questions(fact["prompt"], fact.get("ground_truth"), wrong, field)
    return tuple(found)


def one_hop(groups: Any, wrong: str) -> tuple[Question, ...]:
    """Return the question of a flat ``portability``, if that is its layout.

    Raises:
        ValueError: the question or the answer is no text.
    """
    if not _is_one_hop(groups):
        return ()
    prompt, answer = (groups[name] for name in ONE_HOP)
    return tuple(questions(prompt, answer, wrong, ONE_HOP[1]))


def not_asked(field: str, groups: Any) -> list[str]:
    """Return the names of the groups under ``field`` that are not asked.

    These are groups with unknown names, and whatever has another layout.
    """
    if not isinstance(groups, dict):
        return [field] if present(groups) is not None else []
    known = (DESCRIBED, *ONE_HOP) if field == "portability" and _is_one_hop(groups) else ()
    return [
        f"{field}.{name}"
        for name, group in groups.items()
        if group != {}
        and present(group) is not None
        and name not in known
        and (name not in ASKED[field] or _facts(group) is None)
    ]


def _is_one_hop(groups: Any) -> bool:
    return isinstance(groups, dict) and all(present(groups.get(name)) for name in ONE_HOP)


def _facts(group: Any) -> list[Mapping[str, Any]] | None:
    """Return the objects with a prompt that a group consists of. None if it has another layout."""
    facts = group if isinstance(group, list) else [group]
    good = all(isinstance(fact, dict) and "prompt" in fact for fact in facts)
    return facts if good else None


def questions(prompts: Any, answers: Any, wrong: str, field: str) -> Iterator[Question]:
    """Yield questions. One without a prompt or without an answer is left out, as in EasyEdit.

    Lists of the same length are read in pairs. Otherwise the first prompt has the first answer, as
    in EasyEdit's class of this data.

    Args:
        prompts: one prompt or several.
        answers: the answers. Each can be a list of equally good ones.
        wrong: the wrong answer.
        field: the key of the answers, for the error.

    Raises:
        ValueError: a prompt or an answer is no text.
    """
    several = prompts if isinstance(prompts, list) else [prompts]
    for prompt in several:
        if prompt is not None and not isinstance(prompt, str):
            raise ValueError(f"prompt: expected text, got {shortened(prompt)}")
    if len(several) > 1 and isinstance(answers, list) and len(answers) == len(several):
        pairs: list[tuple[str | None, Any]] = list(zip(several, answers, strict=True))
    else:
        pairs = [(prompt, answers) for prompt in listed(prompts)[:1]]
    for prompt, answer in pairs:
        right = first(answer)
        if right is None or right == []:
            continue
        right = text_of(right, field)
        if prompt and prompt.strip() and right.strip():
            yield Question(text_of(prompt, "prompt"), right, wrong)
