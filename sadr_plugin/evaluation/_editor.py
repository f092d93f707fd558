"""What an evaluation edits with, and what is seen of it from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ._records import Record

if TYPE_CHECKING:
    from torch import nn


class Editor(Protocol):
    """What an evaluation edits with: a toolkit's editor and a model.

    Attributes:
        model: the model, which is edited in place.
        tokenizer: its tokenizer.
        layer: the layer after which attention can drift.
        layer_template: where the layers are, e.g. ``"model.layers.{}"``.
    """

    model: nn.Module
    tokenizer: Any
    layer: int
    layer_template: str

    def edited(
        self, record: Record, sadr: Mapping[str, Any] | None
    ) -> AbstractContextManager[object]:
        """The model with the record's edit in it, and the exact weights again afterwards.

        Args:
            record: what to edit.
            sadr: SADR's settings, as under ``sadr:`` in an hparams file; None for none.
        """


@contextlib.contextmanager
def counted_steps(
    model: nn.Module, on_step: Callable[[int], None] = lambda steps: None
) -> Iterator[Callable[[], int]]:
    """Count the forwards that carry gradients: one for each step of an editor's loop.

    Args:
        model: the model that is edited.
        on_step: told the number at each step.

    Yields:
        A function that gives the number so far.
    """
    count = 0

    def forward(*_: object) -> None:
        nonlocal count
        if torch.is_grad_enabled():
            count += 1
            on_step(count)

    hook = model.register_forward_pre_hook(forward)
    try:
        yield lambda: count
    finally:
        hook.remove()


def fingerprint(model: nn.Module) -> tuple[float, ...]:
    """What changes when any weight does: each parameter's sum, in float64."""
    with torch.no_grad():
        return tuple(p.double().sum().item() for p in model.parameters())
