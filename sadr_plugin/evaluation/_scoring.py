"""How likely a model finds answers: mean log-probability of their tokens, in batches."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..attention._tracer import input_device

if TYPE_CHECKING:
    from torch import Tensor, nn

TOKENS_PER_BATCH = 2048

LOGITS_PER_BATCH = 128
"""Positions at which a batch's logits are computed: each has those of a whole vocabulary."""


Run = Callable[[Callable[[], Any]], Any]
"""Runs a forward and gives its output."""


def just_run(forward: Callable[[], Any]) -> Any:
    """Run it as it is."""
    return forward()


@dataclass(frozen=True)
class _Sequence:
    """A prompt and an answer as tokens, and where they stood in the list."""

    place: int
    ids: list[int]
    answer: int


def _first_predicting(sequence: _Sequence) -> int:
    """Where the answer's first token is predicted from, the position before it."""
    return len(sequence.ids) - sequence.answer - 1


@dataclass(frozen=True)
class Answer:
    """How an answer fares after its prompt.

    Attributes:
        mean_log_probability: of its tokens, in nats. The paper averages over the target's
            tokens (section 3); a space is put before it.
        chosen: the share of its tokens that the model finds likelier than any other, 0 to 1.
    """

    mean_log_probability: float
    chosen: float


class Scorer:
    """Scores answers to prompts with a model.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        tokens_per_batch: how many tokens a forward may hold, padding included.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, tokens_per_batch: int = TOKENS_PER_BATCH
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._tokens_per_batch = tokens_per_batch
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.no_grad()
    def answers(self, asked: Sequence[tuple[str, str]], run: Run = just_run) -> list[Answer]:
        """How each answer fares after its prompt, in the order asked.

        Args:
            asked: (prompt, answer) pairs.
            run: runs each forward and gives its output; the same pairs come to the same forwards.
        """
        found: dict[int, Answer] = {}
        sequences = [self._tokens(place, *pair) for place, pair in enumerate(asked)]
        for batch in self._batches(sorted(sequences, key=lambda s: len(s.ids))):
            for sequence, answer in zip(batch, self._answers(batch, run), strict=True):
                found[sequence.place] = answer
        return [found[place] for place in range(len(asked))]

    def _tokens(self, place: int, prompt: str, answer: str) -> _Sequence:
        prompt_ids = self._tokenizer(prompt)["input_ids"]
        ids = self._tokenizer(f"{prompt} {answer.strip()}")["input_ids"]
        if ids[: len(prompt_ids)] != prompt_ids:  # the prompt's last token goes on in the answer
            answered = self._tokenizer(" " + answer.strip(), add_special_tokens=False)["input_ids"]
            ids = [*prompt_ids, *answered]
        return _Sequence(place, ids, len(ids) - len(prompt_ids))

    def _batches(self, sequences: Sequence[_Sequence]) -> Iterator[list[_Sequence]]:
        """Neighbours in length together: forwards and logits are as wide as the longest needs."""
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
        width = max(len(sequence.ids) for sequence in batch)
        ids = torch.zeros((len(batch), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
            mask[row, : len(sequence.ids)] = 1
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
        """Logits from position ``first`` on, [rows, positions, vocabulary]."""
        forward = partial(self._model, input_ids=ids, attention_mask=mask, use_cache=False)
        if not self._keeps:
            full: Tensor = run(forward).logits
            return full[:, first:]
        # Of a part of each row, and with frozen weights, torch would take as many products with
        # the whole vocabulary as there are rows.
        head = self._model.get_output_embeddings()  # type: ignore[operator]
        hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
        try:
            kept: Tensor = run(partial(forward, logits_to_keep=ids.shape[1] - first)).logits
        finally:
            hook.remove()
        return kept


def answer_probability(model: nn.Module, tokenizer: Any, prompt: str, answer: str) -> float:
    """How likely the model is to go on from ``prompt`` with ``answer``, 0 to 1.

    The exponential of the mean log-probability of the answer's tokens (paper, section 3).
    """
    (found,) = Scorer(model, tokenizer).answers([(prompt, answer)])
    return math.exp(found.mean_log_probability)
