"""Plugins with which the conformance kit looks into an edit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from .adapter import Edit
from .attention._positions import prompt_tokens, shared_length
from .events import Report, Step
from .hookspecs import hookimpl
from .plugins import plugin_manager

if TYPE_CHECKING:
    from .method._running import LossTerm, RunningEdit

NO_EDIT = "no edit was reported: the flag does not reach the editor"

Plugin = TypeVar("Plugin")


class Witness:
    """A plugin that stores the inputs of each penalty and the report of each edit."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.rows: list[dict[str, Tensor]] = []

    @hookimpl(tryfirst=True)
    def sadr_penalty(self, baseline: Tensor, current: Tensor, subject_index: Tensor) -> None:
        """Store the rows. Return None, so another plugin answers."""
        self.rows.append(
            {"baseline": baseline, "current": current.detach(), "subject": subject_index}
        )

    @hookimpl
    def sadr_edit_finished(self, report: Report) -> None:
        """Store the report."""
        self.reports.append(report)

    def only_report(self) -> Report:
        """Return the report of the one edit that `EditorConformance.run` makes."""
        assert self.reports, NO_EDIT
        assert len(self.reports) == 1, (
            f"{len(self.reports)} edits were reported: let run() make one edit"
        )
        return self.reports[0]


class Echo:
    """A plugin with a loss term of weight 0 that replays the loop's own prompt.

    Attributes:
        gaps: for each step, the largest difference between the log-probabilities of the next token
            in the replay and those in the loop.
        moves: for each step, the largest difference between the log-probabilities of the next token
            with the vector and those of the unedited model.
    """

    weight = 0.0
    name = "echo"

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.moves: list[float] = []
        self._running: Any = None
        self._logits: Tensor | None = None

    @hookimpl
    def sadr_loss_terms(self, running: RunningEdit) -> list[LossTerm]:
        """Return the term."""
        self._running = running
        return [self]

    def value(self) -> Tensor:
        """Record both differences. The value itself is 0."""
        running = self._running
        prompts = running.edit.rewriting_prompts()
        row = prompts.index(running.prompt())
        replay = running.replay([prompts[row]])
        now, before = (logits[-1].detach() for logits in (replay.now(), replay.before()))
        assert self._logits is not None, "the loop's forward was not seen"
        loops = self._logits[row, running.rows.positions.prediction[row]]
        expected = loops.float().log_softmax(-1).to(now.device)
        now, before = now.float().log_softmax(-1), before.float().log_softmax(-1)
        self.gaps.append((now - expected).abs().max().item())
        self.moves.append((now - before).abs().max().item())
        return torch.zeros(())

    def watch(self, module: nn.Module, args: Any, output: Any) -> None:
        """Store the logits of the loop's own forward. This is a forward hook for the model."""
        if torch.is_grad_enabled():
            self._logits = output.logits.detach()


class Aim:
    """A plugin that finds the tokens that the editor's own loss aims at.

    It reads them from the gradient of the loss at the logits, in the first step. At a token that is
    to become likelier, the gradient is lower than at all others.

    Attributes:
        edit: what is edited. None if SADR did not act on it.
        aims: (aimed at, declared) for each token of the adapter's target behind a prompt, where the
            loss reads the logits.
    """

    def __init__(self) -> None:
        self.edit: Edit | None = None
        self.aims: list[tuple[int, int]] = []
        self._running: Any = None
        self._logits: Tensor | None = None

    @hookimpl
    def sadr_loss_terms(self, running: RunningEdit) -> list[LossTerm]:
        """Store the edit. Return no term."""
        self._running, self.edit = running, running.edit
        return []

    @hookimpl
    def sadr_step(self, step: Step) -> None:
        """Ask for the gradient, before the backward pass of the first step."""
        logits = self._logits
        if step.index == 0 and logits is not None and logits.requires_grad:
            logits.register_hook(self._read)  # type: ignore[no-untyped-call]

    def _read(self, gradient: Tensor) -> None:
        edit, positions = self._running.edit, self._running.rows.positions
        if edit.target is None:
            return
        for row, prompt in enumerate(prompt_tokens(edit)):
            whole = edit.tokenizer(f"{prompt.prompt.text}{edit.target}")["input_ids"]
            target = whole[shared_length(prompt.ids, whole) :]
            first = int(positions.prediction[row])
            behind = gradient[row, first : first + len(target)]
            self.aims += [
                (int(at.argmin()), declared)
                for at, declared in zip(behind, target, strict=False)
                if at.any()
            ]

    def watch(self, module: nn.Module, args: Any, output: Any) -> None:
        """Store the logits of the loop's own forward. This is a forward hook for the model."""
        if torch.is_grad_enabled():
            self._logits = getattr(output, "logits", None)


@contextmanager
def registered(plugin: Plugin) -> Iterator[Plugin]:
    """Register a plugin with the plugin manager for the length of a ``with`` block."""
    manager = plugin_manager()
    manager.register(plugin)
    try:
        yield plugin
    finally:
        manager.unregister(plugin)


def witnessing() -> AbstractContextManager[Witness]:
    """Register a `Witness` for the length of a ``with`` block."""
    return registered(Witness())
