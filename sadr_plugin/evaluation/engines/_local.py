"""Evaluate in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from .._random import generators_kept
from . import Evaluator, Item


class LocalEngine:
    """Does one task after another in this process.

    The caller finds the random generators unchanged at each item.

    Args:
        evaluator: does the tasks.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    @property
    def arms(self) -> Sequence[str]:
        """See `Engine.arms`."""
        return self._evaluator.arms

    def items(self, queue: deque[Any]) -> Iterator[Item]:
        """See `Engine.items`."""
        if not queue:
            return
        while queue:
            items = self._evaluator.items(queue.popleft())
            while True:
                with generators_kept():
                    item = next(items, None)
                if item is None:
                    break
                yield item
        self._evaluator.finish()
