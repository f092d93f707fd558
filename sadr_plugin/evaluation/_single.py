"""Single edits: score a record, edit it, score it again, undo the edit."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import set_seed

from ..editor import Editor, Record
from ..errors import EvaluationError, PenaltyError, PositionError, SadrError
from ..events import Report
from ..method._probe import DriftProbe
from ..plugins import reports
from ._edits import counted_steps, edited, sadr_acted
from ._measure import Measure
from ._results import UNEDITED, Arm, Result
from ._weights import UneditedWeights


@dataclass(frozen=True)
class RecordTask:
    """A record, and the names of the arms that already have a result for it."""

    record: Record
    done: frozenset[str] = frozenset()


class SingleEvaluator:
    """Evaluates single edits with one model. Each edit is undone before the next.

    Args:
        editor: the editor.
        arms: the ways of editing. Every record is also scored unedited.
        seed: the random seed for generated texts and the toolkit's own draws, set again for each
            record.
        fluency: whether to generate texts.
        skip_bad: whether an error of the toolkit on a record counts as a failed record, as the
            plugin's own errors on a record do. If False, it ends the run.
    """

    def __init__(
        self,
        editor: Editor,
        arms: Sequence[Arm],
        seed: int = 0,
        fluency: bool = True,
        skip_bad: bool = False,
    ) -> None:
        self.arms = [arm.name for arm in arms]
        self._editor = editor
        self._arms = list(arms)
        self._seed = seed
        self._skip_bad = skip_bad
        self._unedited = UneditedWeights(editor.model, editor.weights)
        self._measure = Measure(editor, seed, fluency)

    def items(self, task: RecordTask) -> Iterator[Result]:
        """Yield the unedited scores, then the result of each arm; see `Evaluator.items`.

        The first arm differs from record to record, so that no arm always runs with cold caches.
        """
        record = task.record
        first = zlib.crc32(record.key.encode()) % len(self._arms) if self._arms else 0
        rotated = [*self._arms[first:], *self._arms[:first]]
        todo = [arm for arm in rotated if arm.name not in task.done]
        if UNEDITED not in task.done:
            yield self._measure.result(record, UNEDITED, 0.0, edits=0)
        if not todo:
            return
        probe = self._measure.probe(record)
        for arm in todo:
            yield edited_result(
                self._editor,
                self._unedited,
                self._measure,
                record,
                arm,
                probe,
                self._seed,
                self._skip_bad,
            )

    def finish(self) -> None:
        """Check the whole model; see `Evaluator.finish`."""
        self._unedited.check()


def edited_result(
    editor: Editor,
    unedited: UneditedWeights,
    measure: Measure,
    record: Record,
    arm: Arm,
    probe: DriftProbe | None,
    seed: int,
    skip_bad: bool,
) -> Result:
    """Edit a record, ask about it, and undo the edit.

    Args:
        editor: the editor.
        unedited: the unedited state of the model.
        measure: asks the questions.
        record: the record to edit.
        arm: the way of editing.
        probe: the record's probe, made before the edit. None if the drift cannot be measured.
        seed: the random seed for the toolkit's own draws.
        skip_bad: as for `SingleEvaluator`.

    Raises:
        EvaluationError: the edit could not be undone, or it was made at a layer other than the
            editor's. The message names the record and the arm.
    """
    set_seed(seed)
    started = time.perf_counter()
    try:
        with (
            reports() as found,
            counted_steps(editor.model) as steps,
            edited(editor, unedited, [record], arm.sadr),
        ):
            taken, seconds = steps(), time.perf_counter() - started
            acted = sadr_acted(editor, arm.sadr, found)
            drift = None if probe is None else probe.drift()
            changed = unedited.changed()
            return measure.result(
                record,
                arm.name,
                drift,
                steps=taken,
                seconds=seconds,
                acted=acted,
                changed=changed,
                **ends_of(found, 1)[0],
            )
    except EvaluationError as error:
        raise type(error)(f"record {record.key}, {arm.name}: {error}") from error
    except Exception as error:
        if not is_records_own(error, skip_bad):
            raise
        return failed(record, arm.name, error, time.perf_counter() - started)


def ends_of(found: Sequence[Report], edits: int) -> list[dict[str, Any]]:
    """Return how the search of each edit ended, as the fields of a `Result`.

    Args:
        found: the reports of a call of the editor, in their order. Of several for a single edit,
            the last counts.
        edits: the number of edits in the call. With another number of reports, it is not known
            which report belongs to which edit.
    """
    found = found[-1:] if edits == 1 else found
    if len(found) != edits:
        return [{} for _ in range(edits)]
    return [{"reached": report.reached, "stopped": report.stopped} for report in found]


def is_records_own(error: Exception, skip_bad: bool) -> bool:
    """Whether an error concerns a single record, and not the settings or the evaluation."""
    if isinstance(error, SadrError):
        return isinstance(error, (PositionError, PenaltyError))
    return skip_bad


def failed(record: Record, arm: str, error: Exception, seconds: float) -> Result:
    """Return the result of a record that could not be edited."""
    why = str(error) if isinstance(error, SadrError) else f"{type(error).__name__}: {error}"
    return Result(record.key, arm, {}, None, None, None, seconds=seconds, error=why)
