"""The forwards of a model's layers and output head, taken over for the length of an edit."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..patching._forward import ForwardSlot

Way = Callable[[int, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""How a part's forward is run: given the part's index, its own forward and the arguments."""


class LayerForwards:
    """What the layers and the head call in place of their forwards; by itself, no other thing.

    Args:
        model: the model.
        layers: its layers, in order.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        head = output_head(model)
        self.parts = [*layers] if head is None else [*layers, head]
        """The layers, and the output head where there is one."""
        self.way: Way | None = None
        self._thread = 0
        self._slots: list[ForwardSlot] = []

    def fill(self) -> None:
        """Take the forwards."""
        for index, part in enumerate(self.parts):
            slot = ForwardSlot(part)
            self._slots.append(slot)  # first: an interrupt may come at any time
            slot.fill(functools.partial(self._call, index))

    def restore(self) -> None:
        """Give them back. May be called more than once."""
        for slot in self._slots:
            slot.restore()
        self._slots = []

    @contextmanager
    def taken(self, way: Way) -> Iterator[None]:
        """Inside the block, the forwards that `run` starts go this way."""
        self.way = way
        try:
            yield
        finally:
            self.way = None

    def run(self, forward: Callable[[], Any]) -> Any:
        """Run the model in this thread; what it runs in other threads is left alone."""
        self._thread = threading.get_ident()
        return forward()

    def _call(self, index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.way is None or threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return self.way(index, forward, args, kwargs)


def output_head(model: nn.Module) -> nn.Module | None:
    """The module that makes logits of the last hidden states; None if it cannot be told."""
    try:
        head = model.get_output_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError):
        return None
    return head if isinstance(head, nn.Module) else None
