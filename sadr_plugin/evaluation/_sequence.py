"""Edits that accumulate: in batches or one after another, without undoing them in between.

At checkpoints, all records edited so far are asked about on the current model. A leg runs from one
checkpoint to the next. Each leg starts from what the one before it saved, in any process. An
interrupted run therefore gives the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor
from transformers import set_seed

from ..editor import Editor, Question, Record
from ..errors import ConfigError
from ..method._probe import DriftProbe
from ..plugins import reports
from ._edits import counted_steps, sadr_acted, take_back
from ._measure import Measure
from ._perplexity import Perplexity
from ._results import UNEDITED, Arm, Checkpoint, Result
from ._single import ends_of, failed, is_records_own
from ._weights import UneditedWeights
from .engines import Item

WEIGHT, STATE = "weight:", "state:"
"""Prefixes of the names of saved tensors."""


@dataclass(frozen=True)
class Leg:
    """The edits of an arm from one checkpoint to the next.

    Attributes:
        arm: the arm's name.
        start: the number of edits before the leg.
        end: the number of edits after the leg. Start and end of the unedited arm are 0.
        saved: `Checkpoint.saved` at the start. Empty for the unedited model.
        failed: the keys of the records before ``start`` that could not be edited.
    """

    arm: str
    start: int
    end: int
    saved: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    failed: frozenset[str] = frozenset()


def unrelated_questions(record: Record) -> dict[str, list[Question]]:
    """Return questions about a record that is never edited. The right answer is the true object."""
    fact = Question(record.prompt, record.target_true, record.target_new)
    return {"fact": [fact], "relation": list(record.relations)}


class SequenceEvaluator:
    """Evaluates edits that accumulate, with one model.

    Args:
        editor: the editor.
        arms: the ways of editing. The unedited model is asked as well.
        records: the records to edit, in this order.
        batch_size: the number of records in one call of the editor.
        unrelated: records that are never edited. They are asked at each checkpoint.
        text: a text whose perplexity is measured at each checkpoint; None for none.
        seed: the random seed for generated texts and the toolkit's own draws, set again for each
            call.
        fluency: whether to generate texts.
        skip_bad: whether an error of the toolkit in a call counts as failed records, as the
            plugin's own errors on a record do. If False, it ends the run.

    Raises:
        ConfigError: the editor does not take that many records in one call.
    """

    def __init__(
        self,
        editor: Editor,
        arms: Sequence[Arm],
        records: Sequence[Record],
        batch_size: int = 1,
        unrelated: Sequence[Record] = (),
        text: str | None = None,
        seed: int = 0,
        fluency: bool = True,
        skip_bad: bool = False,
    ) -> None:
        if batch_size > 1 and not editor.takes_batches:
            raise ConfigError("batch size: this editor takes one edit at a time")
        self.arms = [arm.name for arm in arms]
        self._editor = editor
        self._arms = {arm.name: arm for arm in arms}
        self._records = list(records)
        self._batch_size = batch_size
        self._unrelated = list(unrelated)
        self._seed = seed
        self._skip_bad = skip_bad
        self._unedited = UneditedWeights(editor.model, editor.weights)
        self._measure = Measure(editor, seed, fluency)
        self._perplexity = text and Perplexity(editor.model, editor.tokenizer, text)
        self._probes: dict[str, DriftProbe | None] = {}

    def items(self, task: Leg) -> Iterator[Item]:
        """Yield the results of a leg, then its `Checkpoint`; see `Evaluator.items`."""
        if task.arm == UNEDITED:
            for record in self._records:
                yield self._measure.result(record, UNEDITED, 0.0, edits=0)
            yield self._checkpoint(UNEDITED, 0)
            return
        for record in self._records[: task.end]:
            if record.key not in self._probes:  # the model is unedited here
                self._probes[record.key] = self._measure.probe(record)
        try:
            self._load(task.saved)
            yield from self._leg(task)
            checkpoint = self._checkpoint(task.arm, task.end)
        finally:
            take_back(self._editor, self._unedited)
        self._unedited.check()  # a checkpoint states that its leg is reliable
        yield checkpoint

    def finish(self) -> None:
        """Do nothing, because each leg was checked; see `Evaluator.finish`."""

    def _leg(self, leg: Leg) -> Iterator[Item]:
        arm, done = self._arms[leg.arm], set(leg.failed)
        for start in range(leg.start, leg.end, self._batch_size):
            batch = self._records[start : min(start + self._batch_size, leg.end)]
            for result in self._edit(batch, arm, start + len(batch)):
                if result.error is not None:
                    done.add(result.record)
                yield result
        for record in self._records[: leg.end]:
            if record.key not in done:
                yield replace(self._ask(record, arm.name, leg.end), when="checkpoint")

    def _edit(self, batch: Sequence[Record], arm: Arm, edits: int) -> list[Result]:
        """Edit a batch and ask about it directly afterwards.

        If the editor fails, model and editor are as before.
        """
        set_seed(self._seed)
        before, remembered = self._unedited.edited(), self._editor.state()
        started = time.perf_counter()
        try:
            with reports() as found, counted_steps(self._editor.model) as steps:
                self._editor.edit(batch, arm.sadr)
        except Exception as error:
            if not is_records_own(error, self._skip_bad):
                raise
            self._unedited.load(before)
            self._editor.load_state(remembered)
            seconds = (time.perf_counter() - started) / len(batch)
            results = [failed(record, arm.name, error, seconds) for record in batch]
            return [replace(result, edits=edits, when="made") for result in results]
        seconds = (time.perf_counter() - started) / len(batch)
        acted = sadr_acted(self._editor, arm.sadr, found)
        changed = self._unedited.changed(since=before)
        return [
            replace(
                self._ask(record, arm.name, edits),
                steps=steps() / len(batch),
                seconds=seconds,
                when="made",
                acted=acted,
                changed=changed,
                **end,
            )
            for record, end in zip(batch, ends_of(found, len(batch)), strict=True)
        ]

    def _ask(self, record: Record, arm: str, edits: int) -> Result:
        probe = self._probes[record.key]
        drift = None if probe is None else probe.drift()
        return self._measure.result(record, arm, drift, edits=edits)

    def _checkpoint(self, arm: str, edits: int) -> Checkpoint:
        weights = {f"{WEIGHT}{name}": tensor for name, tensor in self._unedited.edited().items()}
        state = {f"{STATE}{name}": tensor for name, tensor in self._editor.state().items()}
        return Checkpoint(
            arm=arm,
            edits=edits,
            unrelated=[self._measure.scores(unrelated_questions(r)) for r in self._unrelated],
            perplexity=self._perplexity() if self._perplexity else None,
            changes=self._unedited.changes(),
            saved={**weights, **state} if edits else {},
        )

    def _load(self, saved: Mapping[str, Tensor]) -> None:
        self._editor.reset()
        if not saved:
            return
        parts: dict[str, dict[str, Tensor]] = {WEIGHT: {}, STATE: {}}
        for name, tensor in saved.items():
            kind, _, own = name.partition(":")
            parts[f"{kind}:"][own] = tensor
        self._unedited.load(parts[WEIGHT])
        self._editor.load_state(parts[STATE])
