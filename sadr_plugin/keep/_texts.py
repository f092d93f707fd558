"""The texts whose continuations an edit should not change. The model writes some of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..adapter import Edit, Prompt
from ..attention._inputs import added_at_end, input_device, padded, without_end
from ..attention._positions import shared_length
from ..config import KeepConfig
from ..errors import UnsupportedModelError

BEGINNINGS = ("The", "In", "A")
"""The first words of the texts after the edited statement. They fit texts about anything."""

CANDIDATES = 2
"""The number of texts about the subject written for each one needed. Some state the object."""

ANSWER = 6
"""The number of tokens of the unedited model's answer in which the old object is looked for."""

FUNCTION_WORDS = frozenset(
    ["A", "An", "At", "He", "I", "In", "It", "On", "She", "That", "The", "There", "They", "This"]
)
"""Words at the beginning of an answer that are not an object."""


@dataclass(frozen=True)
class Texts:
    """The texts to keep, as prompts with the subject in them.

    Attributes:
        about: the openings, then the texts that the model writes about the subject.
        after: texts about anything, after the edited statement.
        begin: the character at which the statement ends in each text of ``after``.
        old: the first token of the old object; None if it is not known.
    """

    about: list[Prompt]
    after: list[Prompt]
    begin: int
    old: int | None


def write_texts(edit: Edit, prompt: Prompt, config: KeepConfig) -> Texts:
    """Make the texts of an edit. The model writes its own texts in one batch.

    Args:
        edit: what is edited.
        prompt: the rewriting prompt, without a context.
        config: the numbers of texts, and the openings.

    Raises:
        UnsupportedModelError: the model cannot generate text.
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
    """Return the object that the edit replaces.

    If the edit does not give it, this is the first name or number in the unedited model's answer,
    or None.
    """
    if edit.old_target is not None or not hasattr(edit.model, "generate"):
        return edit.old_target
    (text,) = _written(edit, [prompt.text], ANSWER)
    words = (word.strip(".,;:!?\"'()") for word in text.split())
    names = (word for word in words if word[:1].isupper() or word[:1].isdigit())
    return next((word for word in names if word not in FUNCTION_WORDS), None)


def _first_token(edit: Edit, prompt: Prompt, answer: str) -> int | None:
    """Return the first token of an answer to the prompt."""
    known = edit.tokenizer(prompt.text)["input_ids"]
    whole: list[int] = edit.tokenizer(f"{prompt.text} {answer.strip()}")["input_ids"]
    start = shared_length(known, whole)
    return whole[start] if start < len(whole) else None


def _written(
    edit: Edit, beginnings: Sequence[str], length: int, seed: int | None = None
) -> list[str]:
    """Return what the model writes after each beginning. Without a seed it is greedy."""
    if not beginnings:
        return []
    model: Any = edit.model
    tokenizer = edit.tokenizer
    if not hasattr(model, "generate"):
        raise UnsupportedModelError(
            f"sadr.keep: {type(model).__name__} has no generate() to write texts with; set texts "
            "and distracted to 0"
        )
    added = added_at_end(tokenizer)
    known = [without_end(tokenizer(text)["input_ids"], added) for text in beginnings]
    # Generation needs padding on the left, independent of the toolkit's side.
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
    """A logits processor that makes greedy decoding draw at random, with its own generator.

    Args:
        never: tokens that are never chosen.
        seed: the seed; None takes the model's most likely token.
    """

    def __init__(self, never: Sequence[int], seed: int | None) -> None:
        self._never = list(never)
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.float().clone()
        # A tokenizer may have more tokens than the model has logits.
        scores[:, [token for token in self._never if token < scores.shape[-1]]] = -torch.inf
        if self._generator is None:
            return scores
        # The argmax of log-probabilities plus Gumbel noise is a sample of their distribution.
        uniform = torch.rand(scores.shape, generator=self._generator).clamp(1e-20, 1 - 1e-7)
        return scores - (-uniform.log()).log().to(scores.device)


@contextlib.contextmanager
def _plain_generation(model: Any, length: int) -> Iterator[None]:
    """Make the model write ``length`` tokens, without the settings in its files."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(max_new_tokens=length, pad_token_id=0)
    try:
        yield
    finally:
        model.generation_config = own


def _behind(tokenizer: Any, known: Sequence[int], whole: Sequence[int]) -> str:
    """Return the text after a beginning, including the blank between them."""
    start: str = tokenizer.decode(known, skip_special_tokens=True)
    text: str = tokenizer.decode(whole, skip_special_tokens=True)
    return text[len(start) :]
