"""Find the tokens of an edit: the subject's token and the prediction position.

Both are found from the text and from the batch that the loop runs, and never by counting padding.
The tokens of a row are those that its attention mask keeps, on whichever side the tokenizer pads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from ..adapter import Edit, EditedToken, Prompt
from ..errors import PositionError
from ..terms import Positions
from ._inputs import added_at_end, without_end


@dataclass(frozen=True)
class PromptTokens:
    """A `Prompt` as tokens.

    Attributes:
        prompt: the prompt.
        ids: its tokens, without padding and without what the tokenizer adds at the end.
        edited: the index of the edited token in ``ids``.
    """

    prompt: Prompt
    ids: tuple[int, ...]
    edited: int


def tokenize(
    tokenizer: Any, prompt: Prompt, edited_token: EditedToken = "subject_last"
) -> PromptTokens:
    """Tokenize a prompt and find the edited token.

    Args:
        tokenizer: a transformers tokenizer, fast or slow.
        prompt: the prompt, without its target.
        edited_token: where the editor adds its vector.

    Raises:
        PositionError: the subject has no tokens of its own in the prompt, or ``edited_token`` is
            unknown.
    """
    added = added_at_end(tokenizer)  # behind the target in a batch, not behind the prompt
    if getattr(tokenizer, "is_fast", False):
        encoding = tokenizer(prompt.text, return_offsets_mapping=True)
        ids = without_end(encoding["input_ids"], added)
        subject = _tokens_within(encoding["offset_mapping"], prompt)
    else:
        # Without offsets, count the tokens of the text before, as the toolkits do.
        ids = without_end(tokenizer(prompt.text)["input_ids"], added)
        start = shared_length(tokenizer(prompt.prefix)["input_ids"], ids)
        end = shared_length(tokenizer(prompt.prefix + prompt.subject)["input_ids"], ids)
        subject = list(range(start, end))
    if not subject:
        raise PositionError(
            f"no token of the subject {prompt.subject!r} can be found in the prompt "
            f"{prompt.text!r} as {type(tokenizer).__name__} reads it"
        )
    edited = {
        "subject_last": subject[-1],
        "subject_first": subject[0],
        "subject_first_after_last": min(subject[-1] + 1, len(ids) - 1),
        "last": len(ids) - 1,
    }
    if edited_token not in edited:
        raise PositionError(
            f"edited_token: {edited_token!r} is not one of {', '.join(map(repr, edited))} "
            "(EasyEdit's key is fact_token)"
        )
    return PromptTokens(prompt, tuple(ids), edited[edited_token])


def prompt_tokens(edit: Edit) -> list[PromptTokens]:
    """Tokenize the rewriting prompts of an edit.

    Raises:
        PositionError: the edit has no prompts, or the subject's tokens cannot be found.
    """
    prompts = edit.rewriting_prompts()
    if not prompts:
        raise PositionError(
            "the edit has no rewriting prompts; its adapter has to give at least one (Edit.prompts)"
        )
    return [tokenize(edit.tokenizer, prompt, edit.edited_token) for prompt in prompts]


def locate(
    prompts: Sequence[PromptTokens], input_ids: Tensor, attention_mask: Tensor | None
) -> Positions | None:
    """Find the positions in the batch of a forward.

    The first ``len(prompts)`` rows have to be the rewriting prompts, each followed by its target.
    Later rows, such as the KL prompt, are ignored. If the end of a prompt and its target merge into
    one token, the prediction position is the last token that belongs to the prompt alone.

    Args:
        prompts: the rewriting prompts, in the order of the batch.
        input_ids: the batch, [rows, tokens].
        attention_mask: 1 for a real token and 0 for padding, [rows, tokens]. None if there is no
            padding on the left.

    Returns:
        None if the batch is not the loop's own.
    """
    if input_ids.dim() != 2 or input_ids.shape[0] < len(prompts):
        return None
    predictions, subjects = [], []
    mask = None
    if attention_mask is not None and attention_mask.shape == input_ids.shape:
        mask = attention_mask.cpu()
    for row, (prompt, ids) in enumerate(zip(prompts, input_ids.tolist(), strict=False)):
        kept = range(len(ids)) if mask is None else mask[row].nonzero().flatten().tolist()
        shared = shared_length(prompt.ids, [ids[index] for index in kept])
        if shared <= prompt.edited:
            return None
        predictions.append(kept[shared - 1])
        subjects.append(kept[prompt.edited])
    return Positions(torch.tensor(predictions), torch.tensor(subjects))


def first_token_after(tokenizer: Any, tokens: PromptTokens, character: int) -> int:
    """Return the index of a prompt's first token that begins at or after a character.

    Args:
        tokenizer: the tokenizer that made ``tokens``.
        tokens: the prompt, tokenized.
        character: an index into the prompt's text.
    """
    text = tokens.prompt.text
    if getattr(tokenizer, "is_fast", False):
        offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        # A token may include the blank before its word. A token without characters has the offsets
        # 0, 0.
        begins = [
            index
            for index, (low, high) in enumerate(offsets)
            if high > low and low + len(text[low:high]) - len(text[low:high].lstrip()) >= character
        ]
        return begins[0] if begins else len(offsets)
    return shared_length(tokenizer(text[:character])["input_ids"], tokens.ids)


def _tokens_within(offsets: Sequence[tuple[int, int]], prompt: Prompt) -> list[int]:
    """Return the indices of the tokens that contain characters of the subject.

    A byte-level tokenizer gives each token of a multi-byte character the span of that character.
    Blanks at the ends of the subject belong to the words around it.
    """
    inner = prompt.subject.strip()
    start = len(prompt.prefix) + prompt.subject.index(inner)
    end = start + len(inner)
    return [i for i, (low, high) in enumerate(offsets) if low < end and high > max(start, low)]


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of tokens at the beginning that two sequences have in common."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
