"""Score answers by the mean log-probability of their tokens, in batches."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..attention._inputs import added_at_end, input_device, padded

if TYPE_CHECKING:
    from torch import Tensor, nn

TOKENS_PER_BATCH = 2048

LOGITS_PER_BATCH = 128
"""The number of positions for which a batch computes logits, each over the whole vocabulary."""


Run = Callable[[Callable[[], Any]], Any]
"""A function that runs a forward and returns its output."""


def just_run(forward: Callable[[], Any]) -> Any:
    """Run the forward without any change."""
    return forward()


@dataclass(frozen=True)
class _Sequence:
    """A prompt and an answer as tokens.

    Attributes:
        place: the index of the pair in the list.
        ids: the tokens of both.
        answer: the number of tokens of the answer.
    """

    place: int
    ids: list[int]
    answer: int


def _first_predicting(sequence: _Sequence) -> int:
    """Return the position that predicts the answer's first token, which is the one before it."""
    return len(sequence.ids) - sequence.answer - 1


@dataclass(frozen=True)
class Answer:
    """The score of an answer after its prompt.

    Attributes:
        mean_log_probability: the mean log-probability of its tokens, in nats. The paper averages
            over the target's tokens (section 3). A space is put before the answer.
        chosen: the share of its tokens that are the model's most likely token, 0 to 1.
    """

    mean_log_probability: float
    chosen: float


class Scorer:
    """Scores answers to prompts with a model.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        tokens_per_batch: the largest number of tokens in a forward, padding included.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, tokens_per_batch: int = TOKENS_PER_BATCH
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._tokens_per_batch = tokens_per_batch
        self._added = added_at_end(tokenizer)
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.no_grad()
    def answers(self, asked: Sequence[tuple[str, str]], run: Run = just_run) -> list[Answer]:
        """Score each answer after its prompt.

        Args:
            asked: (prompt, answer) pairs.
            run: runs each forward and returns its output. The same pairs always lead to the same
                forwards.

        Returns:
            The scores, in the order of ``asked``.
        """
        found: dict[int, Answer] = {}
        sequences = [self._tokens(place, *pair) for place, pair in enumerate(asked)]
        for batch in self._batches(sorted(sequences, key=lambda s: len(s.ids))):
            for sequence, answer in zip(batch, self._answers(batch, run), strict=True):
                found[sequence.place] = answer
        return [found[place] for place in range(len(asked))]

    def _tokens(self, place: int, prompt: str, answer: str) -> _Sequence:
        prompt_ids = self._ids(prompt)
        ids = self._ids(f"{prompt} {answer.strip()}")
        if ids[: len(prompt_ids)] != prompt_ids:  # a token spans the end of the prompt
            answered = self._tokenizer(" " + answer.strip(), add_special_tokens=False)["input_ids"]
            ids = [*prompt_ids, *answered]
        return _Sequence(place, ids, len(ids) - len(prompt_ids))

    def _ids(self, text: str) -> list[int]:
        """Return the tokens of a text that can go on."""
        ids = list(self._tokenizer(text)["input_ids"])
        return ids[: len(ids) - self._added]

    def _batches(self, sequences: Sequence[_Sequence]) -> Iterator[list[_Sequence]]:
        """Batch sequences of similar length, because the longest one sets the width of a batch."""
        batch: list[_Sequence] = []
        for sequence in sequences:
            rows, first = len(batch) + 1, min(map(_first_predicting, [*batch, sequence]))
            tokens, logits = rows * len(sequence.ids), rows * (len(sequence.ids) - first)
            if batch and (tokens > self._tokens_per_batch or logits > LOGITS_PER_BATCH):
                yield batch
                batch = []
            batch.append(sequence)
        if batch:
            yield batch

    def _answers(self, batch: Sequence[_Sequence], run: Run) -> list[Answer]:
        device = input_device(self._model)
        ids, mask, _ = padded([sequence.ids for sequence in batch], "right")
        first = min(map(_first_predicting, batch))
        logits = self._logits(ids.to(device), mask.to(device), first, run)
        answers = []
        for row, sequence in enumerate(batch):
            end = len(sequence.ids)
            answer = torch.tensor(sequence.ids[end - sequence.answer :], device=logits.device)
            predicting = logits[row, end - sequence.answer - 1 - first : end - 1 - first].float()
            scores = predicting.log_softmax(-1).gather(-1, answer[:, None])
            chosen = (predicting.argmax(-1) == answer).float().mean()
            answers.append(Answer(scores.mean().item(), chosen.item()))
        return answers

    def _logits(self, ids: Tensor, mask: Tensor, first: int, run: Run) -> Tensor:
        """Return the logits from position ``first`` on, [rows, positions, vocabulary]."""
        forward = partial(self._model, input_ids=ids, attention_mask=mask, use_cache=False)
        if not self._keeps:
            full: Tensor = run(forward).logits
            return full[:, first:]
        # For a part of each row that is not contiguous, and with frozen weights, torch would
        # multiply by the whole vocabulary once for each row.
        head = self._model.get_output_embeddings()  # type: ignore[operator]
        hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
        try:
            kept: Tensor = run(partial(forward, logits_to_keep=ids.shape[1] - first)).logits
        finally:
            hook.remove()
        return kept


def answer_probability(model: nn.Module, tokenizer: Any, prompt: str, answer: str) -> float:
    """Return the probability of ``answer`` after ``prompt``, 0 to 1.

    It is the exponential of the mean log-probability of the answer's tokens (paper, section 3).
    """
    (found,) = Scorer(model, tokenizer).answers([(prompt, answer)])
    return math.exp(found.mean_log_probability)
