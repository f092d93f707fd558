"""The types of the fields in files of records: texts, answers and lists of prompts."""

from __future__ import annotations

import re
import reprlib
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from ._subjects import find_subject


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def present(value: Any) -> Any:
    """Return a value, or None if it is empty: an empty list, or only empty texts."""
    texts = value if isinstance(value, list) else [value]
    empty = all(text is None or (isinstance(text, str) and not text.strip()) for text in texts)
    return None if empty else value


def first(value: Any) -> Any:
    """Return the first answer from nested lists of equally good answers.

    An answer can be an object with its text under ``str``, as in CounterFact.
    """
    while isinstance(value, list) and value:
        value = value[0]
    return value["str"] if isinstance(value, dict) and "str" in value else value


def listed(prompts: str | list[str | None] | None) -> list[str]:
    """Return the prompts that are not empty."""
    several = prompts if isinstance(prompts, list) else [prompts]
    return [prompt for prompt in several if prompt and prompt.strip()]


def text_of(value: Any, field: str) -> str:
    """Return a text unchanged.

    Raises:
        ValueError: it is no text, or has half a surrogate pair, which no tokenizer takes.
    """
    if not isinstance(value, str):
        raise ValueError(f"{field}: expected text, got {shortened(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{field}: {shortened(value)} is no Unicode text") from None
    return value


Text = Annotated[str, Field(min_length=1), AfterValidator(_not_blank)]

# The schema describes the content of a file. By default it would not include the lists.
_TEXT = {"type": "string", "minLength": 1}
_NAMED = {"type": "object", "properties": {"str": _TEXT}, "required": ["str"]}
_NEST = {"anyOf": [_TEXT, _NAMED, {"type": "array", "minItems": 1}]}
Answer = Annotated[Text, BeforeValidator(first), WithJsonSchema(_NEST)]
"""An answer, or nested lists of equally good ones, of which the first counts."""

Prompts = Annotated[str | list[str | None] | None, BeforeValidator(present)]
"""One prompt or several. Empty ones do not count."""


def template_of(prompt: str, subject: str) -> str:
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


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 3, 60, 60


def shortened(value: Any) -> str:
    """Return a value of any size and depth for a message, with at most 60 characters."""
    text = _REPR.repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
