"""Check reuse on an architecture: the same small edit with reuse and without."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._architectures import Architecture, build

REUSE_TOLERANCE = 5e-6
"""Largest allowed relative difference between the two vectors, float32."""

STEPS = 3

LENGTH = 0.3
"""The length of the vector's change in each step."""


@dataclass(frozen=True)
class ReuseTrial:
    """The result of a small edit with reuse and without.

    Attributes:
        difference: the relative difference between the two vectors.
        left_out: the share of layers times tokens that reuse left out, 0 to 1.
        remark: why nothing was left out, or which layers ran in full.
    """

    difference: float
    left_out: float
    remark: str


def worst(trials: Sequence[ReuseTrial]) -> ReuseTrial:
    """Return the largest difference, the smallest share left out and all remarks."""
    found = [remark for trial in trials if trial.remark for remark in trial.remark.split("; ")]
    remarks = dict.fromkeys(found)
    # NaN counts as larger than any number.
    difference = max((trial.difference for trial in trials), key=lambda d: (d != d, d))
    return ReuseTrial(difference, min(trial.left_out for trial in trials), "; ".join(remarks))


def try_reuse(
    architecture: Architecture, implementation: str, side: str, dtype: Any = None
) -> ReuseTrial:
    """Edit a small random model with reuse and without.

    Args:
        architecture: the architecture.
        implementation: its attention implementation.
        side: the side of the padding, ``"left"`` or ``"right"``.
        dtype: the precision of the model; None for float32.
    """
    import torch

    model = build(architecture, implementation).requires_grad_(False)
    model.to(dtype or torch.float32)
    (alone, *_), (found, left_out, remark) = (
        _edited(model, architecture, side, reuse) for reuse in (False, True)
    )
    return ReuseTrial(((found - alone).norm() / alone.norm()).item(), left_out, remark)


def _edited(
    model: Any, architecture: Architecture, side: str, reuse: bool
) -> tuple[Any, float, str]:
    """Run a small edit of a few steps, with a term for attention in the loss.

    Returns:
        The vector, the share that was left out, and the remark.
    """
    import torch

    from ..attention._layers import Watch, layer_modules
    from ..attention._rows import rows_of
    from ..attention._tracer import tracer_for
    from ..plugins import plugin_manager
    from ..reuse._reuse import reuse_for

    hooks = plugin_manager().hook
    inputs, subject, last = _batch(side)
    layers = layer_modules(model, architecture.layers)
    rows = torch.arange(len(subject))
    vector = torch.zeros(model.config.hidden_size, dtype=model.dtype, requires_grad=True)

    def add(module: Any, args: Any, output: Any) -> None:
        # In place, as toolkits do.
        hidden = output[0] if isinstance(output, tuple) else output
        hidden[rows, subject] += vector

    watch = Watch(model, architecture.layers, edited=1)
    reusing = reuse_for(watch, hooks)
    hook: Any = None
    forward = functools.partial(model, **inputs)
    try:
        with tracer_for(watch, hooks) as tracer:
            hook = layers[1].register_forward_hook(add)
            if reuse:
                reusing.fill()
            run = functools.partial(tracer.run, functools.partial(reusing.within, forward))
            for _ in range(STEPS):
                output, seen = reusing.run(run, inputs, last) if reuse else run()
                found = torch.stack(
                    [r.amax(-1) for r in rows_of(seen, last, reusing.span(last.device))]
                )
                logits = output.logits[rows, last].float()
                loss = 3 * found.mean() - logits.log_softmax(-1)[:, 5].mean()
                (gradient,) = torch.autograd.grad(loss, vector)
                with torch.no_grad():
                    vector -= LENGTH * gradient / gradient.norm()
            left_out, remark = reusing.left_out(), reusing.remark()
    finally:
        reusing.restore()
        if hook is not None:
            hook.remove()
    return vector.detach().float(), left_out, remark


def _batch(side: str) -> tuple[dict[str, Any], Any, Any]:
    """Return a batch with rows of nine, six and eight tokens.

    Also return the index of the edited token of each row, and of its last token.
    """
    import torch

    ids = torch.randint(1, 60, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 9, dtype=torch.long)
    if side == "left":
        mask[1, :3] = mask[2, :1] = 0
        subject, last = torch.tensor([5, 6, 5]), torch.tensor([8, 8, 8])
    else:
        mask[1, 6:] = mask[2, 8:] = 0
        subject, last = torch.tensor([5, 3, 4]), torch.tensor([8, 5, 7])
    return {"input_ids": ids, "attention_mask": mask}, subject, last
