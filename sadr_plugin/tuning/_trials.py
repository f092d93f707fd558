"""Setups: combinations of settings that are tried on single records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..evaluation import UNEDITED, Arm, Editor, Record, Result, UneditedWeights
from ..evaluation._measure import Measure
from ..evaluation._single import edited_result


@dataclass(frozen=True)
class Setup:
    """The settings of an edit.

    Attributes:
        settings: the editor's own settings that differ from the file, as in `Editor.search_space`.
        sadr: the settings under ``sadr:``, or None for no SADR.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    sadr: Mapping[str, Any] | None = None

    @cached_property
    def key(self) -> str:
        """A text that is equal for equal setups."""
        return json.dumps([dict(self.settings), self.sadr and dict(self.sadr)], sort_keys=True)


PLAIN = "plain"
PLAIN_SETUP = Setup(sadr={"gamma": 0.0})
"""The editor alone. With γ = 0 it has the same result, and SADR reports its steps."""


@dataclass(frozen=True)
class TrialTask:
    """A record to edit with a named setup."""

    name: str
    setup: Setup
    record: Record


class TrialEvaluator:
    """Tries setups on records with one model. It is an `Evaluator` for `TrialTask`.

    Args:
        editor: the editor with the settings of the file.
        seed: the random seed for the toolkit's own draws, set again for each record.
    """

    arms: Sequence[str] = ()

    def __init__(self, editor: Editor, seed: int = 0) -> None:
        self._editor = editor
        self._seed = seed
        self._editors: dict[str, Editor] = {}
        self._unedited: dict[tuple[str, ...], UneditedWeights] = {}

    def items(self, task: TrialTask) -> Iterator[Result]:
        """Yield one result, with the task's name as its arm; see `Evaluator.items`.

        The arm `UNEDITED` runs without an edit.
        """
        editor, record = self._configured(task.setup), task.record
        measure = Measure(editor, self._seed, fluency=False)
        if task.name == UNEDITED:
            yield measure.result(record, UNEDITED, 0.0, edits=0)
            return
        arm = Arm(task.name, task.setup.sadr)
        unedited, probe = self._weights(editor), measure.probe(record)
        yield edited_result(
            editor, unedited, measure, record, arm, probe, self._seed, skip_bad=True
        )

    def finish(self) -> None:
        """Check that the model has its unedited weights; see `Evaluator.finish`."""
        for unedited in self._unedited.values():
            unedited.check()

    def _configured(self, setup: Setup) -> Editor:
        key = json.dumps(dict(setup.settings), sort_keys=True)
        if key not in self._editors:
            self._editors[key] = self._editor.configured(setup.settings)
        return self._editors[key]

    def _weights(self, editor: Editor) -> UneditedWeights:
        names = tuple(editor.weights)
        if names not in self._unedited:
            self._unedited[names] = UneditedWeights(editor.model, names)
        return self._unedited[names]
