"""What the conformance kit compares: tensors, modules and attention rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Return the tensors in a nesting of tuples, lists and dictionaries, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def assert_equal(
    found: list[Tensor], expected: list[Tensor], message: str, tolerance: float = 0.0
) -> None:
    """Fail with ``message`` unless the tensors are equal, within the relative ``tolerance``."""
    assert expected, "run() gave no tensor to compare"
    assert len(found) == len(expected), message
    for a, b in zip(found, expected, strict=True):
        difference = (a - b).norm() / b.norm()
        assert torch.equal(a, b) or difference <= tolerance, f"{message} (by {difference:.1e})"


def own_attributes(model: nn.Module) -> dict[str, dict[str, int]]:
    """Return the identity of each module's own attributes, to compare before and after an edit."""
    return {
        name: {key: id(value) for key, value in vars(module).items() if key != "training"}
        for name, module in model.named_modules()
    }


def edited_tokens(rows: dict[str, Tensor]) -> list[int]:
    """Find the edited token of each prompt from the attention rows alone.

    A vector that is added at one token changes the key of that token in the next layer, and no
    other key. In the first watched layer, the shares of all other tokens therefore keep their
    ratios to each other.
    """
    before, now = rows["baseline"][0].double(), rows["current"][0].double()
    edited = []
    for prompt in range(before.shape[0]):
        seen = (before[prompt] > 0).all(0) & (now[prompt] > 0).all(0)
        ratio = (now[prompt][:, seen] / before[prompt][:, seen]).log()
        apart = (ratio - ratio.median(-1, keepdim=True).values).abs().amax(0)
        edited.append(int(seen.nonzero().flatten()[apart.argmax()]))
    return edited


def selected_share(rows: dict[str, Tensor]) -> float:
    """Compute the share of selected heads by the paper's definition, not the plugin's code."""
    layers, prompts, heads, _ = rows["baseline"].shape
    selected = 0
    for layer in range(layers):
        for prompt in range(prompts):
            subject = int(rows["subject"][prompt])
            limit = max(float(rows["baseline"][layer, prompt, h, subject]) for h in range(heads))
            selected += sum(
                float(rows["current"][layer, prompt, h, subject]) > limit for h in range(heads)
            )
    return selected / (layers * prompts * heads)
