"""The SADR penalty: pure functions of attention rows.

Shapes: *rows* are attention rows at the prediction position, [layers, prompts, heads, tokens],
each a probability distribution over tokens. ``subject_index`` holds, per prompt, the index of
the token whose attention decides which heads are selected, [prompts].
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import Divergence

EPSILON = 1e-8
"""Added to both rows before a logarithm (official implementation). It takes 1e-7 for rows in
float16, where 1e-8 is zero; the plugin's rows are float32 at any precision of the model."""


def selected_heads(baseline: Tensor, current: Tensor, subject_index: Tensor) -> Tensor:
    """Which heads over-attend to the subject (paper, section 5.1).

    A head is selected, per layer and prompt, when its attention to the subject token now
    exceeds the largest that any head of the same layer paid it before the edit.

    Args:
        baseline: rows before the edit, [layers, prompts, heads, tokens].
        current: rows now, the same shape.
        subject_index: the subject's token in each prompt, [prompts].

    Returns:
        Boolean mask, [layers, prompts, heads].
    """
    index = subject_index.to(baseline.device).view(1, -1, 1, 1)
    index = index.expand(baseline.shape[0], -1, baseline.shape[2], 1)
    before = baseline.gather(-1, index).squeeze(-1) + EPSILON
    now = current.gather(-1, index).squeeze(-1) + EPSILON
    return now > before.amax(dim=-1, keepdim=True)


def head_divergence(baseline: Tensor, current: Tensor, divergence: Divergence = "kl") -> Tensor:
    """How far each head's row has moved, in nats (``l2``: squared probability).

    ``kl`` is KL(before ‖ now), the published penalty; ``js`` and ``l2`` follow the definitions
    the official code gives without being able to run them.

    Returns:
        [layers, prompts, heads]; gradients flow to ``current`` only.
    """
    before = baseline.detach()
    if divergence == "l2":
        return (before - current).square().sum(-1)
    before, now = before + EPSILON, current + EPSILON
    if divergence == "kl":
        return (before * (before / now).log()).sum(-1)
    middle = (before + now) / 2
    return ((before * (before / middle).log()).sum(-1) + (now * (now / middle).log()).sum(-1)) / 2


def drift_penalty(
    baseline: Tensor, current: Tensor, selected: Tensor, divergence: Divergence = "kl"
) -> Tensor:
    """The SADR penalty before γ (paper, equation for L_SADR): the divergences of the selected
    heads, summed over heads and layers, averaged over prompts.

    Args:
        baseline: rows before the edit, [layers, prompts, heads, tokens]; detached here.
        current: rows now, the same shape.
        selected: which heads count, boolean [layers, prompts, heads]; see `selected_heads`.
        divergence: see `head_divergence`.

    Returns:
        A scalar with a gradient to ``current``.
    """
    moved = head_divergence(baseline, current, divergence)
    # `where` rather than a product: an unselected head must not spread a NaN.
    moved = torch.where(selected, moved, torch.zeros_like(moved))
    return moved.sum() / baseline.shape[1]
