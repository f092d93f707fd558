"""Check an architecture on the installed transformers.

The check builds a small random model from transformers' own class. It compares the rows that SADR
reads with the weights that the model itself returns under eager attention.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedModelError
from ._architectures import Architecture, build
from ._reuse_check import REUSE_TOLERANCE, ReuseTrial, try_reuse, worst

TOLERANCE = 1e-5
"""Largest allowed difference between a row and the model's own weights, in probability, float32."""


@dataclass(frozen=True)
class Trial:
    """The result of a check of an architecture.

    Attributes:
        architecture: the architecture.
        implementation: the attention implementation.
        difference: the largest difference between SADR's rows and the model's own weights, over all
            layers, heads and both padding sides. None if there are no rows.
        remark: why there are no rows, or which layers have no attention.
        reuse: the effect of reuse on a small edit, over both padding sides. None if there are no
            rows.
    """

    architecture: Architecture
    implementation: str
    difference: float | None
    remark: str = ""
    reuse: ReuseTrial | None = None


def check(architecture: Architecture, implementation: str) -> Trial:
    """Compare the rows of a small random model with its own eager weights.

    Raises:
        UnsupportedModelError: SADR refuses an architecture that should be supported.
    """
    from transformers import AutoConfig

    try:
        AutoConfig.for_model(architecture.model_type)
    except ValueError:
        return Trial(architecture, implementation, None, "not in this transformers")
    try:
        model = build(architecture, implementation)
    except (ValueError, ImportError):
        return Trial(architecture, implementation, None, f"no {implementation} in transformers")
    eager = build(architecture, "eager")
    sides = _sides_of_agreement(model, eager)
    if not sides:
        eager = build(architecture, "eager", **architecture.without_sdpa)
        sides = _sides_of_agreement(model, eager)
    if not sides:
        remark = f"transformers' {implementation} computes another model here than its eager"
        return Trial(architecture, implementation, None, remark)
    try:
        difference, left_out = _difference(architecture, model, eager, sides)
    except UnsupportedModelError as error:
        if architecture.supported:
            raise
        return Trial(architecture, implementation, None, f"refused: {error}")
    remark = f"layers without attention: {', '.join(map(str, left_out))}" if left_out else ""
    reuse = worst([try_reuse(architecture, implementation, side) for side in ("left", "right")])
    return Trial(architecture, implementation, difference, remark, reuse)


def _sides_of_agreement(model: Any, eager: Any) -> list[str]:
    """Return the sides of padding on which two implementations of a model give the same.

    On the left, a recurrent model may read padding, and kernels do not agree on what padding sees.
    """
    import torch

    def agree(side: str) -> bool:
        mask, _ = _padding(side)
        given = {"input_ids": _ids(), "attention_mask": mask, "use_cache": False}
        with torch.no_grad():
            one, other = (m(**given).logits[mask.bool()] for m in (model, eager))
        return torch.allclose(one, other, rtol=1e-3, atol=1e-3)

    return [side for side in ("left", "right") if agree(side)]


def _difference(
    architecture: Architecture, model: Any, eager: Any, sides: Sequence[str]
) -> tuple[float, list[int]]:
    """Return the largest difference, and the layers without attention."""
    import torch

    from ..attention._layers import Watch
    from ..attention._tracer import tracer_for
    from ..plugins import plugin_manager

    # With an edit in the first layer, the attention of all other layers can drift.
    watch = Watch(model, architecture.layers, edited=0)
    gaps = []
    total = len(model.get_submodule(architecture.layers.removesuffix(".{}")))
    with tracer_for(watch, plugin_manager().hook) as tracer:
        for side in sides:
            mask, position = _padding(side)
            forward = {"input_ids": _ids(), "attention_mask": mask, "use_cache": False}
            _, seen = tracer.run_with_rows(functools.partial(model, **forward), position)
            own = _weights(eager, forward)
            own = own[len(own) - len(seen) :]
            for rows, expected in zip(seen, own, strict=True):
                assert rows.requires_grad, "rows carry no gradient"
                gap = rows - expected[torch.arange(3), :, position].float()
                gaps.append(gap.abs().max())
        left_out = [index for index in range(1, total) if index not in tracer.layers]
    return torch.stack(gaps).max().item(), left_out  # the maximum is NaN if a gap is NaN


def _weights(eager: Any, forward: dict[str, Any]) -> list[Any]:
    """Return a model's own attention weights [batch, heads, tokens, tokens] of each layer.

    A model that cannot return its weights attends by torch's kernel. Its weights are computed from
    what the kernel is given.
    """
    import torch
    from torch.nn import functional

    weights = eager(**forward, output_attentions=True).attentions
    if weights is not None:
        return [w for w in weights if w is not None]
    module: Any = functional
    found, kernel = [], module.scaled_dot_product_attention

    def noting(query: Any, key: Any, value: Any, attn_mask: Any, **options: Any) -> Any:
        scores = query @ key.transpose(-1, -2) * options["scale"] + attn_mask
        found.append(scores.softmax(-1))
        return kernel(query, key, value, attn_mask, **options)

    module.scaled_dot_product_attention = noting
    try:
        with torch.no_grad():
            eager(**forward)
    finally:
        module.scaled_dot_product_attention = kernel
    return found


def _ids() -> Any:
    import torch

    return torch.randint(1, 60, (3, 9), generator=torch.Generator().manual_seed(1))


def _padding(side: str) -> tuple[Any, Any]:
    """Return a mask for three prompts of nine, five and eight tokens, and a position in each."""
    import torch

    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, :4] = mask[2, :1] = 0
    if side == "left":
        return mask, torch.tensor([7, 8, 6])
    return mask.flip(-1), torch.tensor([7, 4, 6])


def is_sound(tried: Architecture, found: Trial) -> bool:
    """Whether a check has the expected result."""
    if found.difference is not None and found.reuse is not None:
        return found.difference <= TOLERANCE and found.reuse.difference <= REUSE_TOLERANCE
    # A missing figure is correct only if transformers has no such model or kernel, or SADR refuses.
    absent = found.remark.startswith("not in") or found.implementation != "eager"
    return absent or not tried.supported
