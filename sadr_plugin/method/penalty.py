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
"""Added to both rows before a logarithm, as in the official implementation.

For rows in float16, where 1e-8 is zero, the official implementation takes 1e-7. The plugin's rows
are float32 at any precision of the model.
"""


def selected_heads(baseline: Tensor, current: Tensor, subject_index: Tensor) -> Tensor:
    """Select the heads that over-attend to the subject (paper, section 5.1).

    A head is selected, for each layer and prompt, if its attention to the subject token now exceeds
    the largest attention that any head of the same layer paid to that token before the edit.

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
    """Measure how far each head's row has moved, in nats (``l2``: squared probability).

    ``kl`` is KL(before ‖ now), the published penalty. ``js`` and ``l2`` follow definitions in the
    official code, which cannot run them.

    Args:
        baseline: rows before the edit, [layers, prompts, heads, tokens]; detached here.
        current: rows now, the same shape.
        divergence: ``kl``, ``js`` or ``l2``.

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
    """Compute the SADR penalty before γ (paper, equation for L_SADR).

    It is the sum of the divergences of the selected heads over heads and layers, averaged over
    prompts.

    Args:
        baseline: rows before the edit, [layers, prompts, heads, tokens]; detached here.
        current: rows now, the same shape.
        selected: which heads count, boolean [layers, prompts, heads]; see `selected_heads`.
        divergence: see `head_divergence`.

    Returns:
        A scalar with a gradient to ``current``.
    """
    moved = head_divergence(baseline, current, divergence)
    # A product would spread the NaN of a head that is not selected.
    moved = torch.where(selected, moved, torch.zeros_like(moved))
    return moved.sum() / baseline.shape[1]
