"""Evaluate in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from ...errors import ChangedModelError
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

    def items(self, queue: deque[Any]) -> Generator[Item, None, None]:
        """See `Engine.items`."""
        if not queue:
            return
        try:
            yield from self._items(queue)
        except ChangedModelError:
            raise
        except BaseException:  # an interrupt, or GeneratorExit: the caller has ended the run
            self._finish_after_error()
            raise
        self._evaluator.finish()

    def _items(self, queue: deque[Any]) -> Generator[Item, None, None]:
        while queue:
            items = self._evaluator.items(queue.popleft())
            while True:
                with generators_kept():
                    item = next(items, None)
                if item is None:
                    break
                yield item

    def _finish_after_error(self) -> None:
        try:
            self._evaluator.finish()
        except ChangedModelError:
            raise
        except Exception:
            pass  # on a broken device nothing can be checked; the first error says why
