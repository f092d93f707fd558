"""Setups run on records, with what was run before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..evaluation import Engine, Record, Result, read_results
from ..evaluation._files import append_lines, drop_half_line, put_aside
from ._trials import Setup, TrialTask


class Runs:
    """Runs setups that have a name, and keeps a line for each record in a file.

    Args:
        engine: does the tasks.
        file: where results go; those that are there already are not made again. A name stands for
            one setup.
        on_result: told each new result.
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
        drop_half_line(file)
        self._found = {(r.arm, r.record): r for r in read_results(file)}

    def missing(self, setups: Mapping[str, Setup], records: Sequence[Record]) -> list[TrialTask]:
        """What has no result yet."""
        return [
            TrialTask(name, setup, record)
            for record in records
            for name, setup in setups.items()
            if (name, record.key) not in self._found
        ]

    def results(self, setups: Mapping[str, Setup], records: Sequence[Record]) -> list[Result]:
        """The results of every setup on every record, made where they are not there.

        Args:
            setups: by name.
            records: each is edited in all setups before the next.
        """
        with put_aside(self._file):
            for result in self._engine.items(deque(self.missing(setups, records))):
                assert isinstance(result, Result)
                append_lines(self._file, [result])
                self._found[result.arm, result.record] = result
                self._on_result(result)
        return [self._found[name, record.key] for record in records for name in setups]
