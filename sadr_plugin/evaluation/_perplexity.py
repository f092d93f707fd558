"""The perplexity of a text that has nothing to do with the edits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..attention._inputs import input_device
from ..errors import ConfigError

TOKENS = 4096
"""The number of tokens of the text that are read."""

WINDOW = 256
"""The number of tokens that the model sees at a time."""


class Perplexity:
    """Measures the perplexity of one text as often as needed.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        text: the text. Its first `TOKENS` tokens count.

    Raises:
        ConfigError: the text is shorter than two tokens.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, text: str) -> None:
        self._model = model
        # A token has at most about ten characters on average, so the tokenizer need not read the
        # rest.
        ids = tokenizer(text[: 16 * TOKENS], add_special_tokens=False)["input_ids"][:TOKENS]
        if len(ids) < 2:
            raise ConfigError("perplexity: a text of at least two tokens is needed")
        self._windows: Sequence[list[int]] = [
            window for i in range(0, len(ids), WINDOW) if len(window := ids[i : i + WINDOW]) > 1
        ]

    @torch.no_grad()
    def __call__(self) -> float:
        """Return exp of the mean negative log-probability of the tokens.

        Each window is read on its own.
        """
        device, total, count = input_device(self._model), 0.0, 0
        for window in self._windows:
            ids = torch.tensor([window], device=device)
            logits = self._model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            total += nn.functional.cross_entropy(
                logits, ids[0, 1:].to(logits.device), reduction="sum"
            ).item()
            count += len(window) - 1
        return math.exp(min(total / count, 700))  # a larger number would overflow
