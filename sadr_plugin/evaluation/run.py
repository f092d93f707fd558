"""Evaluating edits one by one: score, edit, score again, take the edit back, next.

A line of JSON is written for each record and arm as soon as it is known, so that a run that was
killed goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..edit import Edit
from ..errors import DataError, EvaluationError, PositionError, SadrError
from ..plugins import plugin_manager
from ..positions import Prompt
from ..probe import AttentionProbe
from .metrics import TASKS, ngram_entropy
from .records import Record
from .scoring import Scorer

if TYPE_CHECKING:
    from torch import nn

UNEDITED = "unedited"
"""The arm without an edit."""

OPENINGS = 3
"""How many texts are generated for each record's fluency."""

GENERATED_TOKENS = 100


class Editor(Protocol):
    """What an evaluation edits with: a toolkit's editor and a model.

    Attributes:
        model: the model, which is edited in place.
        tokenizer: its tokenizer.
        layer: the layer after which attention can drift.
        layer_template: where the layers are, e.g. ``"model.layers.{}"``.
    """

    model: nn.Module
    tokenizer: Any
    layer: int
    layer_template: str

    def edited(
        self, record: Record, sadr: Mapping[str, Any] | None
    ) -> AbstractContextManager[object]:
        """The model with the record's edit in it, and the exact weights again afterwards.

        Args:
            record: what to edit.
            sadr: SADR's settings, as under ``sadr:`` in an hparams file; None for none.
        """


@dataclass(frozen=True)
class Arm:
    """A way of editing; ``sadr`` is None for the toolkit alone."""

    name: str
    sadr: Mapping[str, Any] | None


@dataclass(frozen=True)
class Result:
    """What one record showed in one arm.

    Attributes:
        record: the record's key.
        arm: the arm's name.
        scores: by metric, for each question (right, wrong), mean log-probabilities in nats.
        drift: the penalty at γ = 1 on the record's prompt; 0 without an edit.
        fluency: mean n-gram entropy of generated texts in bits, None without openings.
        steps: optimisation steps of the edit.
        seconds: wall time of the edit.
        error: why there is no edit, one of the plugin's own errors; then there are no scores.
    """

    record: str
    arm: str
    scores: dict[str, list[tuple[float, float]]]
    drift: float | None
    fluency: float | None
    steps: int
    seconds: float
    error: str | None = None

    @classmethod
    def from_line(cls, line: str) -> Result:
        """Read a line of a result file.

        Raises `ValueError` or `TypeError` for anything else.
        """
        data = json.loads(line)
        data["scores"] = {
            task: [(float(right), float(wrong)) for right, wrong in pairs]
            for task, pairs in data["scores"].items()
        }
        return cls(**data)


def read_results(file: Path) -> list[Result]:
    """The results in a file; a last line that was cut off is taken away from it.

    Raises `DataError` for any other line that is no result.
    """
    if not file.exists():
        return []
    content = file.read_bytes()
    whole, newline, cut = content.rpartition(b"\n")
    if cut:
        os.truncate(file, len(whole) + len(newline))
    results = []
    for number, line in enumerate(whole.decode().splitlines(), 1):
        try:
            results.append(Result.from_line(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{file}: line {number} is no result: {error}") from None
    return results


class Evaluation:
    """One run over records and arms.

    Args:
        editor: edits and takes back.
        arms: the ways of editing; every record is also scored unedited.
        file: where the results go, a line each.
        seed: what generated texts and the toolkit's own draws start from, for each record anew.
        fluency: whether to generate texts.
    """

    def __init__(
        self,
        editor: Editor,
        arms: Sequence[Arm],
        file: Path,
        seed: int = 0,
        fluency: bool = True,
    ) -> None:
        self._editor = editor
        self._arms = list(arms)
        self._file = file
        self._seed = seed
        self._fluency = fluency
        self._unedited_weights = fingerprint(editor.model)
        self._scorer = Scorer(editor.model, editor.tokenizer)
        self.results = read_results(file)
        self._done = {(result.record, result.arm) for result in self.results}

    def run(
        self,
        records: Sequence[Record],
        on_result: Callable[[Result], None] = lambda result: None,
    ) -> list[Result]:
        """Evaluate what has no result yet; gives all results, old and new.

        Raises:
            EvaluationError: the editor did not put the model's weights back.
        """
        for record in records:
            for result in self._evaluate(record):
                self._write(result)
                on_result(result)
        return self.results

    def _evaluate(self, record: Record) -> Iterator[Result]:
        todo = [arm for arm in self._arms if (record.key, arm.name) not in self._done]
        if (record.key, UNEDITED) not in self._done:
            yield self._result(record, UNEDITED, 0.0, 0, 0.0)
        if not todo:
            return
        probe = self._probe(record)
        for arm in todo:
            result = self._edited_result(record, arm, probe)
            if fingerprint(self._editor.model) != self._unedited_weights:
                raise EvaluationError(
                    f"record {record.key}, {arm.name}: the model's weights are not what they were "
                    "before the edit; its editor has to put them back"
                )
            yield result

    def _edited_result(self, record: Record, arm: Arm, probe: AttentionProbe | None) -> Result:
        torch.manual_seed(self._seed)
        started = time.perf_counter()
        try:
            with (
                counted_steps(self._editor.model) as steps,
                self._editor.edited(record, arm.sadr),
            ):
                taken, seconds = steps(), time.perf_counter() - started
                drift = None if probe is None else probe.drift()
                return self._result(record, arm.name, drift, taken, seconds)
        except SadrError as error:
            seconds = time.perf_counter() - started
            return Result(record.key, arm.name, {}, None, None, 0, seconds, str(error))

    def _probe(self, record: Record) -> AttentionProbe | None:
        try:
            prompt = Prompt.from_template(record.template, record.subject)
            editor = self._editor
            edit = Edit(
                editor.model, editor.tokenizer, [prompt], editor.layer, editor.layer_template
            )
            return AttentionProbe(edit, plugin_manager().hook)
        except PositionError:
            return None  # there is no drift to speak of where the subject is no token

    def _result(
        self, record: Record, arm: str, drift: float | None, steps: int, seconds: float
    ) -> Result:
        questions = {task: ask(record) for task, ask in TASKS.items()}
        pairs = [
            (question.prompt, answer)
            for asked in questions.values()
            for question in asked
            for answer in (question.right, question.wrong)
        ]
        found = iter(self._scorer.mean_log_probabilities(pairs))
        scores = {
            task: [(next(found), next(found)) for _ in asked] for task, asked in questions.items()
        }
        fluency = self._generate(record) if self._fluency else None
        return Result(record.key, arm, scores, drift, fluency, steps, seconds)

    def _generate(self, record: Record) -> float | None:
        """The mean n-gram entropy of texts that begin as the record says, drawn top-5."""
        openings = list(dict.fromkeys(record.openings))[:OPENINGS]
        if not openings:
            return None
        tokenizer, model = self._editor.tokenizer, self._editor.model
        side, tokenizer.padding_side = tokenizer.padding_side, "left"
        try:
            batch = tokenizer(openings, padding=True, return_tensors="pt")
        finally:
            tokenizer.padding_side = side
        torch.manual_seed(self._seed)
        output = model.generate(  # type: ignore[operator]
            **batch.to(next(model.parameters()).device),
            do_sample=True,
            top_k=5,
            max_new_tokens=GENERATED_TOKENS,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts = tokenizer.batch_decode(output, skip_special_tokens=True)
        return sum(map(ngram_entropy, texts)) / len(texts)

    def _write(self, result: Result) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.results.append(result)
        self._done.add((result.record, result.arm))


@contextlib.contextmanager
def counted_steps(
    model: nn.Module, on_step: Callable[[int], None] = lambda steps: None
) -> Iterator[Callable[[], int]]:
    """Count the forwards that carry gradients: one for each step of an editor's loop.

    Args:
        model: the model that is edited.
        on_step: told the number at each step.

    Yields:
        A function that gives the number so far.
    """
    count = 0

    def forward(*_: object) -> None:
        nonlocal count
        if torch.is_grad_enabled():
            count += 1
            on_step(count)

    hook = model.register_forward_pre_hook(forward)
    try:
        yield lambda: count
    finally:
        hook.remove()


def fingerprint(model: nn.Module) -> tuple[float, ...]:
    """What changes when any weight does: each parameter's sum, in float64."""
    with torch.no_grad():
        return tuple(p.double().sum().item() for p in model.parameters())
