"""The texts whose continuations an edit is to leave alone; some the model writes itself."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..adapter import Edit, Prompt
from ..attention._positions import own_length, padded, shared_length
from ..attention._tracer import input_device
from ..config import KeepConfig
from ..errors import UnsupportedModelError

BEGINNINGS = ("The", "In", "A")
"""How the texts begin that follow the edited statement: as texts about anything do."""

CANDIDATES = 2
"""How many texts about the subject are written for each that is wanted: some state the object."""

ANSWER = 6
"""How many tokens of the unedited model's answer tell the old object."""

FUNCTION_WORDS = frozenset(
    ["A", "An", "At", "He", "I", "In", "It", "On", "She", "That", "The", "There", "They", "This"]
)
"""Words an answer may begin with that are no object."""


@dataclass(frozen=True)
class Texts:
    """What is to be kept, as prompts with the subject in them.

    Attributes:
        about: the openings, then what the model writes of the subject.
        after: texts about anything, after the edited statement.
        begin: where in each of those the statement ends, in characters.
        old: the first token of the old object; None where it is not known.
    """

    about: list[Prompt]
    after: list[Prompt]
    begin: int
    old: int | None


def write_texts(edit: Edit, prompt: Prompt, config: KeepConfig) -> Texts:
    """The texts of an edit; the model writes its own in one go.

    Args:
        edit: what is edited.
        prompt: the rewriting prompt, without a context.
        config: says how many, and the openings.

    Raises:
        UnsupportedModelError: the model cannot write.
    """
    subject = prompt.subject
    about = [Prompt.from_template(text, subject) for text in config.openings]
    count = CANDIDATES * config.texts if config.weight else 0
    others = config.others if config.distracted else 0
    beginnings = [BEGINNINGS[index % len(BEGINNINGS)] for index in range(others)]
    written = _written(edit, [subject] * count + beginnings, config.length, config.seed)
    old = _old_object(edit, prompt) if config.weight else None
    told = [word.strip() for word in (edit.target, old) if word]
    fit = [text for text in written[:count] if not any(_states(text, word) for word in told)]
    about += [Prompt("", subject, text) for text in fit[: config.texts]]
    suffix = f"{prompt.suffix} {(edit.target or '').strip()}."
    after = [
        Prompt(prompt.prefix, subject, f"{suffix} {beginning}{text}")
        for beginning, text in zip(beginnings, written[count:], strict=True)
    ]
    first = None if old is None else _first_token(edit, prompt, old)
    return Texts(about, after, len(prompt.prefix + subject + suffix), first)


def _states(text: str, answer: str) -> bool:
    return re.search(rf"\b{re.escape(answer)}\b", text, re.IGNORECASE) is not None


def _old_object(edit: Edit, prompt: Prompt) -> str | None:
    """What the edit replaces; where it does not say, the first name or number in the unedited
    model's answer."""
    if edit.old_target is not None or not hasattr(edit.model, "generate"):
        return edit.old_target
    (text,) = _written(edit, [prompt.text], ANSWER)
    words = (word.strip(".,;:!?\"'()") for word in text.split())
    names = (word for word in words if word[:1].isupper() or word[:1].isdigit())
    return next((word for word in names if word not in FUNCTION_WORDS), None)


def _first_token(edit: Edit, prompt: Prompt, answer: str) -> int | None:
    """The first token of an answer to the prompt."""
    known = edit.tokenizer(prompt.text)["input_ids"]
    whole: list[int] = edit.tokenizer(f"{prompt.text} {answer.strip()}")["input_ids"]
    start = shared_length(known, whole)
    return whole[start] if start < len(whole) else None


def _written(
    edit: Edit, beginnings: Sequence[str], length: int, seed: int | None = None
) -> list[str]:
    """What the model writes after each beginning; its likeliest words without a seed."""
    if not beginnings:
        return []
    model: Any = edit.model
    tokenizer = edit.tokenizer
    if not hasattr(model, "generate"):
        raise UnsupportedModelError(
            f"sadr.keep: {type(model).__name__} has no generate() to write texts with; set texts "
            "and distracted to 0"
        )
    known = [tokenizer(text)["input_ids"] for text in beginnings]
    known = [row[: own_length(tokenizer, row)] for row in known]
    # On the left, where text that is to be continued is padded, whatever the toolkit does.
    ids, mask, starts = padded(known, "left")
    device = input_device(model)
    with torch.no_grad(), _plain_generation(model, length):
        output = model.generate(
            ids.to(device),
            attention_mask=mask.to(device),
            logits_processor=[_Choice(tokenizer.all_special_ids, seed)],
        )
    return [
        _behind(tokenizer, row, whole[start:].tolist())
        for row, start, whole in zip(known, starts, output, strict=True)
    ]


class _Choice:
    """A logits processor by which the likeliest token is one drawn at random, without a random
    generator that others use.

    Args:
        never: tokens that are not chosen.
        seed: None for the model's likeliest token.
    """

    def __init__(self, never: Sequence[int], seed: int | None) -> None:
        self._never = list(never)
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.float().clone()
        scores[:, self._never] = -torch.inf
        if self._generator is None:
            return scores
        # The largest of log-probabilities with Gumbel noise is distributed as they say.
        uniform = torch.rand(scores.shape, generator=self._generator).clamp(1e-20, 1 - 1e-7)
        return scores - (-uniform.log()).log().to(scores.device)


@contextlib.contextmanager
def _plain_generation(model: Any, length: int) -> Iterator[None]:
    """Inside the block the model writes so many tokens, whatever its files recommend."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(max_new_tokens=length, pad_token_id=0)
    try:
        yield
    finally:
        model.generation_config = own


def _behind(tokenizer: Any, known: Sequence[int], whole: Sequence[int]) -> str:
    """The text that stands behind a beginning, the blank between them included."""
    start: str = tokenizer.decode(known, skip_special_tokens=True)
    text: str = tokenizer.decode(whole, skip_special_tokens=True)
    return text[len(start) :]
