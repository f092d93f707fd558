"""Ask a model about a record, before or after an edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..adapter import Edit, Prompt
from ..attention._inputs import input_device, padded, padding_token
from ..editor import Editor, Question, Record
from ..errors import PositionError
from ..method._probe import DriftProbe
from ._metrics import TASKS, ngram_entropy
from ._results import Result
from ._scoring import Run, Scorer, just_run

OPENINGS = 3
"""The number of texts that are generated for each record's fluency."""

GENERATED_TOKENS = 100


class Measure:
    """Asks the editor's model, as it is now, about records.

    Args:
        editor: gives the model.
        seed: the random seed for generated texts, set again for each record.
        fluency: whether to generate texts.
    """

    def __init__(self, editor: Editor, seed: int, fluency: bool) -> None:
        self._editor = editor
        self._seed = seed
        self._fluency = fluency
        self._scorer = Scorer(editor.model, editor.tokenizer)

    def probe(self, record: Record) -> DriftProbe | None:
        """Return a probe that measures how far the record's attention drifts from now on.

        None if the drift cannot be measured, because the subject has no token of its own.
        """
        try:
            prompt = Prompt.from_template(record.template, record.subject)
            editor = self._editor
            edit = Edit(
                editor.model, editor.tokenizer, [prompt], editor.layer, editor.layer_template
            )
            return DriftProbe(edit)
        except PositionError:
            return None

    def result(
        self, record: Record, arm: str, drift: float | None, **more: int | float | None
    ) -> Result:
        """Ask all questions of a record.

        Args:
            record: the record.
            arm: the arm's name, for the result.
            drift: see `Result`.
            **more: further attributes of the result.
        """
        questions = {task: ask(record) for task, ask in TASKS.items()}
        scores, chosen = self._asked(questions)
        fluency = self._generate(record) if self._fluency else None
        return Result(record.key, arm, scores, chosen, drift, fluency, **more)  # type: ignore[arg-type]

    def scores(
        self, questions: Mapping[str, Sequence[Question]], run: Run = just_run
    ) -> dict[str, list[tuple[float, float]]]:
        """Return (right, wrong) for each question, by kind: mean log-probabilities in nats.

        Args:
            questions: the questions, by kind.
            run: see `Scorer.answers`.
        """
        return self._asked(questions, run)[0]

    def _asked(
        self, questions: Mapping[str, Sequence[Question]], run: Run = just_run
    ) -> tuple[dict[str, list[tuple[float, float]]], float]:
        """Return the scores, and `Answer.chosen` of the first question's right answer."""
        pairs = [
            (question.prompt, answer)
            for asked in questions.values()
            for question in asked
            for answer in (question.right, question.wrong)
        ]
        answers = self._scorer.answers(pairs, run)
        found = iter(answers)
        scores = {
            task: [
                (next(found).mean_log_probability, next(found).mean_log_probability) for _ in asked
            ]
            for task, asked in questions.items()
        }
        return scores, answers[0].chosen

    def _generate(self, record: Record) -> float | None:
        """Return the mean n-gram entropy of texts that begin with the record's openings.

        The texts are drawn with top-k sampling, k = 5. None without openings, or if the model gives
        no finite probabilities.
        """
        openings = list(dict.fromkeys(record.openings))[:OPENINGS]
        if not openings:
            return None
        tokenizer, model = self._editor.tokenizer, self._editor.model
        padding = padding_token(model, tokenizer)
        ids, mask, _ = padded([tokenizer(text)["input_ids"] for text in openings], "left", padding)
        device = input_device(model)
        batch = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        with torch.no_grad():
            following = model(**batch).logits[:, -1]
        if not torch.isfinite(following).all():
            return None  # after too many edits there is nothing to draw from
        torch.manual_seed(self._seed)
        output = model.generate(  # type: ignore[operator]
            **batch,
            do_sample=True,
            top_k=5,
            remove_invalid_values=True,
            max_new_tokens=GENERATED_TOKENS,
            pad_token_id=padding,
        )
        texts = tokenizer.batch_decode(output, skip_special_tokens=True)
        return sum(map(ngram_entropy, texts)) / len(texts)
