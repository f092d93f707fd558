"""What a model answers to a prompt, and how far an edit has moved its attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn


@torch.no_grad()
def answer_probability(model: nn.Module, tokenizer: Any, prompt: str, answer: str) -> float:
    """How likely the model is to go on from ``prompt`` with ``answer``.

    The probability of the answer's tokens, averaged over them as the paper does (section 3):
    the exponential of their mean log-probability, 0 to 1. A space is put before the answer.
    """
    device = next(model.parameters()).device
    prompt_ids = tokenizer(prompt)["input_ids"]
    answer_ids = tokenizer(" " + answer.strip(), add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*prompt_ids, *answer_ids]], device=device)
    predicting = slice(len(prompt_ids) - 1, ids.shape[1] - 1)
    logits = model(input_ids=ids).logits[0, predicting].float()
    chosen = logits.log_softmax(-1).gather(-1, ids[0, len(prompt_ids) :, None])
    return float(chosen.mean().exp())
