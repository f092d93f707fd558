"""The texts whose continuations an edit is to leave alone; some the model writes itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..adapter import Edit, Prompt
from ..attention._positions import shared_length
from ..attention._tracer import input_device
from ..config import KeepConfig
from ..errors import UnsupportedModelError

BEGINNINGS = ("The", "In", "A")
"""How the texts begin that follow the edited statement: as texts about anything do."""

CANDIDATES = 2
"""How many texts about the subject are written for each that is wanted: some state the object."""

ANSWER = 6
"""How many tokens of the unedited model's answer tell the old object."""


@dataclass(frozen=True)
class Texts:
    """What is to be kept, as prompts with the subject in them.

    Attributes:
        about: the openings, then what the model writes of the subject.
        after: texts about anything, after the edited statement.
        begin: where in each of those the model's own words begin, in characters.
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
    count = CANDIDATES * config.texts
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


def _states(text: str, word: str) -> bool:
    return bool(word) and word.lower() in text.lower()


def _old_object(edit: Edit, prompt: Prompt) -> str | None:
    """What the edit replaces; where it does not say, the first name or number in the unedited
    model's answer."""
    if edit.old_target is not None or not hasattr(edit.model, "generate"):
        return edit.old_target
    (text,) = _written(edit, [prompt.text], ANSWER)
    words = (word.strip(".,;:!?\"'()") for word in text.split())
    return next((word for word in words if word[:1].isupper() or word[:1].isdigit()), None)


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
    size = max(map(len, known))
    # On the left, where text that is to be continued is padded, whatever the toolkit does.
    ids = torch.tensor([[0] * (size - len(row)) + row for row in known])
    mask = torch.tensor([[0] * (size - len(row)) + [1] * len(row) for row in known])
    device = input_device(model)
    cuda = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.no_grad(), torch.random.fork_rng(cuda):
        torch.manual_seed(seed or 0)
        config = _sampling(model, seed is not None, length)
        output = model.generate(
            ids.to(device), attention_mask=mask.to(device), generation_config=config
        )
    return [
        _behind(tokenizer, row, whole[size - len(row) :].tolist())
        for row, whole in zip(known, output, strict=True)
    ]


def _sampling(model: nn.Module, sampled: bool, length: int) -> Any:
    """How to write: by the model's own probabilities, whatever its files recommend."""
    from transformers import GenerationConfig

    end = getattr(getattr(model, "config", None), "eos_token_id", None)
    config = GenerationConfig(max_new_tokens=length, min_new_tokens=length, do_sample=sampled)
    config.eos_token_id = end
    config.pad_token_id = end[0] if isinstance(end, list) else end
    if sampled:
        config.top_k, config.top_p, config.temperature = 0, 1.0, 1.0
    return config


def _behind(tokenizer: Any, known: Sequence[int], whole: Sequence[int]) -> str:
    """The text that stands behind a beginning, the blank between them included."""
    start: str = tokenizer.decode(known, skip_special_tokens=True)
    text: str = tokenizer.decode(whole, skip_special_tokens=True)
    return text[len(start) :]
