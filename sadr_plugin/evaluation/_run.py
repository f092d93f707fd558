"""A run over single edits: the remaining tasks, the engine and the file of results.

A line is written for each record and arm as soon as its result is known. A run that was killed
therefore continues where it stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from ..editor import Record
from ._files import append_lines, drop_half_line, read_results, rewrite
from ._results import UNEDITED, Result
from ._single import RecordTask
from ._watch import ItemWatch
from .engines import Engine, Item


class EvaluationRun:
    """A run over single edits.

    Args:
        engine: does the evaluation.
        file: the file of results, one per line. Results in it are kept.
        retry_failed: whether to drop records that could not be edited, so that they are tried
            again.
    """

    def __init__(self, engine: Engine, file: Path, retry_failed: bool = False) -> None:
        self._engine = engine
        self._file = file
        drop_half_line(file)
        self.results = read_results(file)
        if retry_failed and any(result.error is not None for result in self.results):
            self.results = [result for result in self.results if result.error is None]
            rewrite(file, self.results)

    def run(
        self,
        records: Sequence[Record],
        on_item: Callable[[Item], None] = lambda item: None,
    ) -> list[Result]:
        """Evaluate everything without a result, and return all results, old and new.

        Raises:
            ChangedModelError: the model has changed. This is checked however the run ends. The
                results are then not reliable, and no later run uses them.
        """
        with ItemWatch(self._file).items(self._engine, self._todo(records)) as items:
            for item in items:
                assert isinstance(item, Result)
                append_lines(self._file, [item])
                self.results.append(item)
                on_item(item)
        return self.results

    def _todo(self, records: Sequence[Record]) -> deque[RecordTask]:
        done: dict[str, set[str]] = {}
        for result in self.results:
            done.setdefault(result.record, set()).add(result.arm)
        wanted = {UNEDITED, *self._engine.arms}
        todo = [RecordTask(record, frozenset(done.get(record.key, ()))) for record in records]
        return deque(task for task in todo if wanted - task.done)
