"""Who evaluates: this process, one record after another, or the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from .._records import Record
from .._results import Result

Todo = tuple[Record, frozenset[str]]
"""A record, and the names of the arms it has results of."""


class Engine(Protocol):
    """Who evaluates: a `LocalEngine`, record after record, or a `RayEngine`, many at once."""

    @property
    def arms(self) -> Sequence[str]:
        """The names of the arms that each record is edited in."""

    def results(self, todo: Iterable[Todo]) -> Iterator[Result]:
        """What is left to do, done: of each record the unedited scores, then arm after arm.

        Raises:
            EvaluationError: the editor did not put the model's weights back.
        """
