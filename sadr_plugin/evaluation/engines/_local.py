"""Evaluating one record: score, edit, score again, take the edit back."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import torch

from ...adapter import Edit, Prompt
from ...errors import EvaluationError, PenaltyError, PositionError, SadrError
from ...method._measure import DriftProbe
from .._editor import Editor, counted_steps, fingerprint
from .._metrics import TASKS, ngram_entropy
from .._records import Record
from .._results import UNEDITED, Arm, Result
from .._scoring import Scorer
from . import Todo

OPENINGS = 3
"""How many texts are generated for each record's fluency."""

GENERATED_TOKENS = 100


class LocalEngine:
    """Evaluates records with one model.

    Args:
        editor: edits and takes back.
        arms: the ways of editing; every record is also scored unedited.
        seed: what generated texts and the toolkit's own draws start from, for each record anew.
        fluency: whether to generate texts.
        skip_bad: whether an error of the toolkit's own on a record is counted, as the plugin's
            on a record is; else it ends the run.
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
        self._fluency = fluency
        self._skip_bad = skip_bad
        self._unedited_weights = fingerprint(editor.model)
        self._scorer = Scorer(editor.model, editor.tokenizer)

    def results(self, todo: Iterable[Todo]) -> Iterator[Result]:
        """See `Engine.results`."""
        for record, done in todo:
            yield from self._evaluate(record, done)

    def _evaluate(self, record: Record, done: frozenset[str]) -> Iterator[Result]:
        todo = [arm for arm in self._arms if arm.name not in done]
        if UNEDITED not in done:
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

    def _edited_result(self, record: Record, arm: Arm, probe: DriftProbe | None) -> Result:
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
        except Exception as error:
            if not self._is_records(error):
                raise
            seconds = time.perf_counter() - started
            why = str(error) if isinstance(error, SadrError) else f"{type(error).__name__}: {error}"
            return Result(record.key, arm.name, {}, None, None, None, 0, seconds, why)

    def _is_records(self, error: Exception) -> bool:
        """Whether an error is a single record's, not one of the settings or the evaluation."""
        if isinstance(error, SadrError):
            return isinstance(error, (PositionError, PenaltyError))
        return self._skip_bad

    def _probe(self, record: Record) -> DriftProbe | None:
        try:
            prompt = Prompt.from_template(record.template, record.subject)
            editor = self._editor
            edit = Edit(
                editor.model, editor.tokenizer, [prompt], editor.layer, editor.layer_template
            )
            return DriftProbe(edit)
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
        answers = self._scorer.answers(pairs)
        found = iter(answers)
        scores = {
            task: [
                (next(found).mean_log_probability, next(found).mean_log_probability) for _ in asked
            ]
            for task, asked in questions.items()
        }
        # The first question is the edited fact, its first answer the new object.
        chosen = answers[0].chosen
        fluency = self._generate(record) if self._fluency else None
        return Result(record.key, arm, scores, chosen, drift, fluency, steps, seconds)

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
