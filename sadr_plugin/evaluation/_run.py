"""A run over records: what is left to do, who does it, and the file the results go to.

A line is written for each record and arm as soon as it is known, so that a run that was killed
goes on where it stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from ._records import Record
from ._results import UNEDITED, Result, read_results
from .engines import Engine, Todo


class EvaluationRun:
    """One run.

    Args:
        engine: who evaluates.
        file: where the results go, a line each; those that are there already stay.
    """

    def __init__(self, engine: Engine, file: Path) -> None:
        self._engine = engine
        self._file = file
        self.results = read_results(file)

    def run(
        self,
        records: Sequence[Record],
        on_result: Callable[[Result], None] = lambda result: None,
    ) -> list[Result]:
        """Evaluate what has no result yet; gives all results, old and new."""
        for result in self._engine.results(self._todo(records)):
            self._write(result)
            on_result(result)
        return self.results

    def _todo(self, records: Sequence[Record]) -> list[Todo]:
        done: dict[str, set[str]] = {}
        for result in self.results:
            done.setdefault(result.record, set()).add(result.arm)
        wanted = {UNEDITED, *self._engine.arms}
        todo = [(record, frozenset(done.get(record.key, ()))) for record in records]
        return [(record, has) for record, has in todo if wanted - has]

    def _write(self, result: Result) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.results.append(result)
