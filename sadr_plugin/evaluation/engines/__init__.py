"""Who evaluates: this process, one task after another, or the workers of a Ray cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from .._results import Checkpoint, Result

Item = Result | Checkpoint
"""What an evaluation comes to, bit by bit."""


class Evaluator(Protocol):
    """Does tasks with one model: a `SingleEvaluator` or a `SequenceEvaluator`."""

    @property
    def arms(self) -> Sequence[str]:
        """The names of the ways of editing."""

    def items(self, task: Any) -> Iterator[Item]:
        """A task, done.

        Raises:
            EvaluationError: the model is not what it was before.
        """

    def finish(self) -> None:
        """See that the whole model is what it was; raises as `items` does."""


class Engine(Protocol):
    """Who evaluates: a `LocalEngine`, or a `RayEngine`, which does many tasks at once."""

    @property
    def arms(self) -> Sequence[str]:
        """The names of the ways of editing."""

    def items(self, queue: deque[Any]) -> Iterator[Item]:
        """The tasks in the queue, done; whoever takes an item may put further tasks in.

        Raises:
            EvaluationError: the model is not what it was before.
        """
