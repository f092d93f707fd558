"""The causal test: how much of an edit's damage, and of the edit itself, attention causes.

The test works in two directions. The unedited model's attention is put into the edited model: the
answers that recover were lost through attention. The edited model's attention is put into the
unedited model: the answers that are lost are lost through attention alone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import set_seed

from ..errors import ConfigError
from ..evaluation import (
    TASKS,
    UNEDITED,
    Arm,
    Editor,
    Record,
    Result,
    UneditedWeights,
    counted_steps,
    edited,
)
from ..evaluation._edits import sadr_acted
from ..evaluation._measure import Measure
from ..evaluation._scoring import Run
from ..evaluation._single import RecordTask, ends_of, failed, is_records_own
from ..plugins import reports
from ._maps import AttentionMap, Head, MapReader, ranked
from ._transplant import Transplant


@dataclass(frozen=True)
class Variant:
    """The part of the attention that is exchanged.

    Attributes:
        top: the number of heads, those that drifted most at the edit's prediction position. None
            for all.
        window: the first and the last layer. None for all.
    """

    top: int | None = None
    window: tuple[int, int] | None = None

    @property
    def suffix(self) -> str:
        """The text that the variant adds to the name of an arm."""
        if self.top is not None:
            return f", {self.top} heads"
        return "" if self.window is None else f", layers {self.window[0]}-{self.window[1]}"

    def heads(
        self, layers: Sequence[int], drifted: Sequence[Head]
    ) -> Mapping[int, Sequence[int] | None] | None:
        """Return the heads that are exchanged, by layer, as `AttentionTracer.run_with` takes them.

        Args:
            layers: the watched layers.
            drifted: the heads, the most drifted first.

        Raises:
            ConfigError: no watched layer is in the window.
        """
        if self.top is not None:
            chosen: dict[int, list[int]] = {}
            for head in drifted[: self.top]:
                chosen.setdefault(head.layer, []).append(head.head)
            return dict(chosen)
        if self.window is None:
            return None
        first, last = self.window
        inside = [layer for layer in layers if first <= layer <= last]
        if not inside:
            raise ConfigError(
                f"window: no layer of {first}-{last} is among those whose attention an edit "
                f"reaches, {layers[0]}-{layers[-1]}"
            )
        return dict.fromkeys(inside)


def restored(arm: str, variant: Variant) -> str:
    """Return the name of the arm with the unedited attention in the edited model."""
    return f"{arm} + unedited attention{variant.suffix}"


def transferred(arm: str, variant: Variant) -> str:
    """Return the name of the arm with the edited attention in the unedited model."""
    return f"{UNEDITED} + {arm} attention{variant.suffix}"


class CausalEvaluator:
    """Runs the causal test with one model, record by record; an `Evaluator`.

    Args:
        editor: the editor.
        arms: the ways of editing.
        variants: the parts of the attention that are exchanged.
        seed: the random seed for the toolkit's own draws, set again for each record.
        skip_bad: as for `SingleEvaluator`.
    """

    def __init__(
        self,
        editor: Editor,
        arms: Sequence[Arm],
        variants: Sequence[Variant] = (Variant(),),
        seed: int = 0,
        skip_bad: bool = False,
    ) -> None:
        self._editor = editor
        self._arms = list(arms)
        self.variants = list(variants)
        self._seed = seed
        self._skip_bad = skip_bad
        self._unedited = UneditedWeights(editor.model, editor.weights)
        self._measure = Measure(editor, seed, fluency=False)
        self.edited_arms = [arm.name for arm in arms]
        self.arms = arm_names(self.edited_arms, variants)
        self.maps: list[AttentionMap] = []
        """The attention maps of the last record."""

    def items(self, task: RecordTask) -> Iterator[Result]:
        """Yield the results of a record's arms that are not done yet; see `Evaluator.items`."""
        for result in self._results(task.record):
            if result.arm not in task.done:
                yield result

    def finish(self) -> None:
        """Check that the model has its unedited weights; see `Evaluator.finish`."""
        self._unedited.check()

    def _results(self, record: Record) -> Iterator[Result]:
        try:
            reader = MapReader(self._editor, record)
        except Exception as error:
            if not is_records_own(error, self._skip_bad):
                raise
            for name in (UNEDITED, *self.arms):
                yield failed(record, name, error, 0.0)
            return
        before: list[list[Tensor]] = []
        with Transplant(self._editor) as transplant:
            scores = self._scores(record, transplant.keeping(before))
        yield Result(record.key, UNEDITED, scores, None, 0.0, None, edits=0)
        for arm in self._arms:
            yield from self._arm(record, arm, reader, before)
        self.maps = reader.maps()

    def _arm(
        self, record: Record, arm: Arm, reader: MapReader, before: list[list[Tensor]]
    ) -> Iterator[Result]:
        started = time.perf_counter()
        after: list[list[Tensor]] = []
        set_seed(self._seed)
        try:
            with (
                reports() as found,
                counted_steps(self._editor.model) as steps,
                edited(self._editor, self._unedited, [record], arm.sadr),
            ):
                taken, seconds = steps(), time.perf_counter() - started
                acted = sadr_acted(self._editor, arm.sadr, found)
                changed = self._unedited.changed()
                reader.read(arm.name)
                maps = reader.maps()
                drifted = ranked(maps[:1], arm.name)
                with Transplant(self._editor) as transplant:
                    heads = [v.heads(transplant.layers, drifted) for v in self.variants]
                    scores = self._scores(record, transplant.keeping(after))
                    back = [self._scores(record, transplant.by(before, h)) for h in heads]
        except Exception as error:
            if not is_records_own(error, self._skip_bad):
                raise
            for name in arm_names([arm.name], self.variants):
                yield failed(record, name, error, time.perf_counter() - started)
            return
        result = Result(
            record.key,
            arm.name,
            scores,
            None,
            None,
            None,
            taken,
            seconds,
            acted=acted,
            changed=changed,
            **ends_of(found, 1)[0],
        )
        yield _with_attention(result, record, maps, drifted)
        for variant, own in zip(self.variants, back, strict=True):
            yield Result(record.key, restored(arm.name, variant), own, None, None, None)
        with Transplant(self._editor) as transplant:
            for variant, chosen in zip(self.variants, heads, strict=True):
                own = self._scores(record, transplant.by(after, chosen))
                yield Result(record.key, transferred(arm.name, variant), own, None, None, None)

    def _scores(self, record: Record, run: Run) -> dict[str, list[tuple[float, float]]]:
        return self._measure.scores({task: ask(record) for task, ask in TASKS.items()}, run)


def arm_names(arms: Sequence[str], variants: Sequence[Variant]) -> list[str]:
    """Return the names of all arms of a test, in the order of their results."""
    return [
        name
        for arm in arms
        for name in (
            arm,
            *(restored(arm, variant) for variant in variants),
            *(transferred(arm, variant) for variant in variants),
        )
    ]


def _with_attention(
    result: Result, record: Record, maps: Sequence[AttentionMap], drifted: Sequence[Head]
) -> Result:
    """Return the result with the changes of attention in its arm."""
    moved: dict[str, list[float | None]] = {
        kind: [None] * len(TASKS[kind](record)) for kind in {found.kind for found in maps}
    }
    for found in maps:
        divergence = found.divergence(result.arm)
        moved[found.kind][found.question] = round(divergence.sum().item(), 6)
    heads = [
        [h.layer, h.head, *(round(value, 6) for value in (h.divergence, h.before, h.now))]
        for h in drifted
    ]
    return dataclasses.replace(result, heads=heads, moved=moved)
