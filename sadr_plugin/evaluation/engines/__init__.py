"""Engines of an evaluation: this process, or the workers of a Ray cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol

from .._results import Checkpoint, Result

Item = Result | Checkpoint
"""One result or checkpoint of an evaluation."""


class Evaluator(Protocol):
    """Does tasks with one model, as a `SingleEvaluator` or a `SequenceEvaluator` does."""

    @property
    def arms(self) -> Sequence[str]:
        """The names of the ways of editing."""

    def items(self, task: Any) -> Iterator[Item]:
        """Do a task and yield its items.

        Raises:
            ChangedModelError: the model has changed after an edit was undone.
            EvaluationError: an edit could not be undone for another reason.
        """

    def finish(self) -> None:
        """Check that the whole model is as it was. It raises the errors of `items`."""


class Engine(Protocol):
    """Runs an evaluation: a `LocalEngine`, or a `RayEngine`, which does many tasks at once."""

    @property
    def arms(self) -> Sequence[str]:
        """The names of the ways of editing."""

    def items(self, queue: deque[Any]) -> Generator[Item, None, None]:
        """Do the tasks in the queue and yield their items.

        The caller may add tasks to the queue after each item. The model is checked at the end, also
        after an error, and if the caller closes the generator early.

        Raises:
            ChangedModelError: the model has changed after an edit was undone.
            EvaluationError: an edit could not be undone for another reason.
        """
