"""Other prompts of an edit: a batch that runs without the vector and with it."""

from __future__ import annotations

import contextlib
import functools
import reprlib
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from .._threads import hook_here
from ..adapter import Edit, Prompt, are_prompts
from ..attention._inputs import input_device, padded, padding_token
from ..attention._positions import PromptTokens, first_token_after, tokenize
from ..errors import AttachmentError, PositionError, UnsupportedModelError
from ..reuse._forwards import output_head
from ..reuse._reuse import Reuse
from ._vectors import Vectors

WORTHWHILE = 0.8
"""Two batches replace one if together they have at most this share of its tokens."""


class Replay:
    """Prompts of a loss term, with the edit's subject in each.

    They are padded on the same side as the toolkit's prompts. Long and short prompts may run in
    separate batches. A term gets a replay from `RunningEdit.replay`.

    Attributes:
        rows: the prompt of each token that is read, [read].

    Raises:
        AttachmentError: the arguments have wrong types, or a number is outside its prompt.
        PositionError: there are no prompts, or the subject's tokens cannot be found.
    """

    def __init__(
        self,
        edit: Edit,
        vectors: Vectors,
        reuse: Callable[[], Reuse] | None,
        prompts: Sequence[Prompt],
        read_from: Sequence[int] | None = None,
    ) -> None:
        if not are_prompts(prompts):
            raise AttachmentError(
                "running.replay takes a list of Prompts with texts (Prompt.from_template makes "
                f"one), got {reprlib.repr(prompts)}"
            )
        if not prompts:
            raise PositionError(
                "running.replay got an empty list of prompts; give it at least one prompt"
            )
        tokens = [tokenize(edit.tokenizer, prompt, edit.edited_token) for prompt in prompts]
        first = [each.edited for each in tokens]
        if read_from is not None:
            _check_read_from(prompts, read_from)
            first = [
                first_token_after(edit.tokenizer, each, character) - 1
                for each, character in zip(tokens, read_from, strict=True)
            ]
        self._vectors = vectors
        groups = _by_length([len(each.ids) for each in tokens])
        self._batches = [
            _Batch(edit, reuse, [tokens[i] for i in group], [first[i] for i in group])
            for group in groups
        ]
        rows = [
            torch.tensor(group, device=batch.rows.device)[batch.rows]
            for group, batch in zip(groups, self._batches, strict=True)
        ]
        self.rows = torch.cat(rows)

    @torch.no_grad()
    def before(self) -> Tensor:
        """Return the logits without the edit, [read, vocabulary], without gradient."""
        with self._vectors.absent():
            return torch.cat([batch.logits() for batch in self._batches])

    def now(self) -> Tensor:
        """Return the logits with the vector of this step, [read, vocabulary].

        They have a gradient to the vector.
        """
        found = []
        for batch in self._batches:
            with self._vectors.in_place(batch.every, batch.edited):
                found.append(batch.logits())
        return torch.cat(found)


def _check_read_from(prompts: Sequence[Prompt], read_from: Sequence[int]) -> None:
    if not isinstance(read_from, Sequence) or len(read_from) != len(prompts):
        raise AttachmentError(
            "running.replay: read_from has to be a list with one number for each of the "
            f"{len(prompts)} prompts, got {reprlib.repr(read_from)}"
        )
    for prompt, character in zip(prompts, read_from, strict=True):
        if not isinstance(character, Integral) or not 0 <= character <= len(prompt.text):
            raise AttachmentError(
                f"running.replay: read_from holds {character!r} for the prompt {prompt.text!r}; "
                f"give a character of it, from 0 to {len(prompt.text)}, its length"
            )


def _by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Group the indices by length. Two groups are made only if this saves enough padding."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    whole = len(order) * lengths[order[-1]]

    def size(cut: int) -> int:
        return cut * lengths[order[cut - 1]] + (len(order) - cut) * lengths[order[-1]]

    cut = min(range(1, len(order)), key=size, default=0)
    if cut == 0 or size(cut) > WORTHWHILE * whole:
        return [order]
    return [order[:cut], order[cut:]]


class _Batch:
    """Prompts of similar length.

    Attributes:
        every: the indices of the rows.
        edited: the edited token of each row.
        rows: the row of each token that is read.
    """

    def __init__(
        self,
        edit: Edit,
        reuse: Callable[[], Reuse] | None,
        prompts: Sequence[PromptTokens],
        first: Sequence[int],
    ) -> None:
        self._model = edit.model
        self._reuse = None if reuse is None else reuse()
        device = input_device(edit.model)
        tokenizer = edit.tokenizer
        ids, mask, starts = padded(
            [each.ids for each in prompts],
            tokenizer.padding_side,
            padding_token(edit.model, tokenizer),
        )
        rows: list[int] = []
        tokens: list[int] = []
        for row, (each, start) in enumerate(zip(prompts, starts, strict=True)):
            end = len(each.ids)
            read = range(max(0, min(first[row], end - 1)), end)
            rows += [row] * len(read)
            tokens += [start + token for token in read]
        self._given = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        self.every = torch.arange(len(prompts), device=device)
        edited = [start + each.edited for each, start in zip(prompts, starts, strict=True)]
        self.edited = torch.tensor(edited, device=device)
        self.rows = torch.tensor(rows, device=device)
        self._tokens = torch.tensor(tokens, device=device)

    def logits(self) -> Tensor:
        """Return the logits at the tokens that are read, [read, vocabulary].

        Raises:
            UnsupportedModelError: the model's forward returns no logits.
        """
        with self._head_on_what_is_read() as is_cut:
            output = self._run()
        logits = getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            raise UnsupportedModelError(
                f"the forward of {type(self._model).__name__} returns no `logits`; other prompts "
                "cannot be run with the edit's vector"
            )
        return logits.squeeze(0) if is_cut() else logits[self._read(logits.device)]

    def _run(self) -> Any:
        def run() -> Any:
            # This skips hooks on the model itself. They count and watch the steps of the loop.
            return self._model.forward(**self._given)

        if self._reuse is None:
            return run()
        within = functools.partial(self._reuse.within, run)
        return self._reuse.run(within, self._given, gaining=self.edited)

    def _read(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return self.rows.to(device), self._tokens.to(device)

    @contextlib.contextmanager
    def _head_on_what_is_read(self) -> Iterator[Callable[[], bool]]:
        """Give the output head only the tokens that are read.

        A large vocabulary makes the head slow.

        Yields:
            A function that says whether the head was called in this way.
        """
        calls = 0

        def cut(_: object, args: tuple[Any, ...]) -> Any:
            nonlocal calls
            if not args or not isinstance(args[0], Tensor) or args[0].shape[:2] != shape:
                return None
            calls += 1
            return (args[0][self._read(args[0].device)].unsqueeze(0), *args[1:])

        shape = self._given["input_ids"].shape
        head = output_head(self._model)
        with contextlib.ExitStack() as stack:
            if head is not None:
                stack.callback(head.register_forward_pre_hook(hook_here(cut)).remove)
            yield lambda: calls > 0
