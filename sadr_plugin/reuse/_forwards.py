"""The forwards of a model's layers and output head, replaced for the length of an edit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from .._threads import forward_here
from ._slot import ForwardSlot

Way = Callable[[int, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Runs a part's forward. It takes the part's index, its own forward and the arguments."""


class LayerForwards:
    """Replaces the forwards of the layers and the head.

    Unless `taken` is active, the replacements call the original forwards. So they do in other
    threads than the one that calls `fill`.

    Args:
        model: the model.
        layers: its layers, in order.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        head = output_head(model)
        self.parts = [*layers] if head is None else [*layers, head]
        """The layers, and the output head if there is one."""
        self.way: Way | None = None
        self._slots: list[ForwardSlot] = []

    def fill(self) -> None:
        """Replace the forwards."""
        for index, part in enumerate(self.parts):
            slot = ForwardSlot(part)
            self._slots.append(slot)  # before `fill`, because an interrupt may come at any time
            slot.fill(forward_here(functools.partial(self._call, index)))

    def restore(self) -> None:
        """Restore the forwards, all of them also after an interrupt. It may be called again."""
        interrupt = None
        for slot in self._slots:
            try:
                slot.restore()
            except BaseException as error:
                interrupt = error
                slot.restore()
        self._slots = []
        if interrupt is not None:
            raise interrupt

    @contextmanager
    def taken(self, way: Way) -> Iterator[None]:
        """Let ``way`` handle the forwards inside a ``with`` block."""
        self.way = way
        try:
            yield
        finally:
            self.way = None

    def _call(self, index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.way is None:
            return forward(*args, **kwargs)
        return self.way(index, forward, args, kwargs)


def output_head(model: nn.Module) -> nn.Module | None:
    """Return the module that turns hidden states into logits; None if it is not known."""
    try:
        head = model.get_output_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError):
        return None
    return head if isinstance(head, nn.Module) else None
