"""Runs setups on records, and reuses the results of earlier runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..evaluation import Engine, Record, Result, read_results
from ..evaluation._files import append_lines, drop_half_line
from ..evaluation._watch import ItemWatch
from ._trials import Setup, TrialTask


class Runs:
    """Runs named setups, and writes one line into a file for each result.

    Args:
        engine: does the tasks.
        file: the file of the results. Results in it are not computed again, so a name always has to
            mean the same setup.
        on_result: called with each new result.
    """

    def __init__(
        self,
        engine: Engine,
        file: Path,
        on_result: Callable[[Result], None] = lambda result: None,
    ) -> None:
        self._engine = engine
        self._file = file
        self._on_result = on_result
        self._watch = ItemWatch(file, by_arm=False)
        drop_half_line(file)
        self._found = {(r.arm, r.record): r for r in read_results(file)}

    def missing(self, setups: Mapping[str, Setup], records: Sequence[Record]) -> list[TrialTask]:
        """Return the tasks that have no result yet."""
        return [
            TrialTask(name, setup, record)
            for record in records
            for name, setup in setups.items()
            if (name, record.key) not in self._found
        ]

    def results(self, setups: Mapping[str, Setup], records: Sequence[Record]) -> list[Result]:
        """Return the results of every setup on every record. Missing results are computed.

        Args:
            setups: the setups, by name.
            records: the records. Each is edited with all setups before the next record.

        Raises:
            ChangedModelError: an edit could not be undone. The file gets another name.
        """
        with self._watch.items(self._engine, deque(self.missing(setups, records))) as items:
            for result in items:
                assert isinstance(result, Result)
                append_lines(self._file, [result])
                self._found[result.arm, result.record] = result
                self._on_result(result)
        return [self._found[name, record.key] for record in records for name in setups]
