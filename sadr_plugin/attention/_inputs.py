"""The inputs of a forward: their device, their padding, and the tokens that a tokenizer adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def input_device(model: nn.Module) -> torch.device:
    """Return the device of a model's input.

    Parameters that accelerate keeps elsewhere are on the device ``meta``.
    """
    execution = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    if execution is not None:
        return torch.device(execution)
    devices = (parameter.device for parameter in model.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def added_at_end(tokenizer: Any) -> int:
    """Return how many tokens, such as one for the end of the text, a tokenizer adds at the end.

    A special token that the text itself ends with is not one of them.
    """
    whole = list(tokenizer("a")["input_ids"])
    own = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    added = range(len(whole) - len(own) + 1)
    return next((n for n in added if whole[: len(whole) - n][-len(own) :] == own), 0)


def without_end(ids: Sequence[int], added: int) -> list[int]:
    """Return tokens without the last ``added``; see `added_at_end`."""
    return list(ids[: len(ids) - added])


def padding_token(model: nn.Module, tokenizer: Any) -> int:
    """Return a tokenizer's padding token, or 0 if there is none or the model has no such token.

    The attention mask hides it, so any token will do.
    """
    embeddings: Any = getattr(model, "get_input_embeddings", lambda: None)()
    token = tokenizer.pad_token_id
    known = getattr(embeddings, "num_embeddings", None)
    return 0 if token is None or (known is not None and token >= known) else int(token)


def padded(
    rows: Sequence[Sequence[int]], side: str, token: int = 0
) -> tuple[Tensor, Tensor, list[int]]:
    """Put token lists of different lengths into one batch.

    Args:
        rows: the tokens of each text.
        side: the side of the padding, ``"left"`` or ``"right"``.
        token: the padding token.

    Returns:
        Tokens and attention mask, [rows, tokens], and the index at which the text of each row
        begins.
    """
    size = max(map(len, rows))
    starts = [size - len(row) if side == "left" else 0 for row in rows]
    ids = torch.full((len(rows), size), token)
    mask = torch.zeros_like(ids)
    for row, start in enumerate(starts):
        inside = slice(start, start + len(rows[row]))
        ids[row, inside] = torch.tensor(rows[row])
        mask[row, inside] = 1
    return ids, mask, starts
