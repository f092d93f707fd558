"""Plugins with which the conformance kit looks into an edit."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from .adapter import Edit
from .attention._inputs import added_at_end, without_end
from .attention._layers import layer_modules
from .attention._positions import prompt_tokens, shared_length
from .attention._tracer import tracer_for
from .config import SadrConfig
from .events import Report, Step
from .hookspecs import hookimpl
from .method._rows import stack_layers, watch_of
from .method._stopping import IGNORED
from .plugins import plugin_manager
from .reuse._arguments import hidden_in

if TYPE_CHECKING:
    from .terms import LossTerm, RunningEdit

PULL = 1e-3
"""The loss counts as pulling at another row if the row's gradient exceeds this share.

It is a share of the largest gradient of a prompt. At zero vector, a KL term has only rounding
errors as its gradient, which are smaller.
"""

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
    """A plugin that looks at what the editor's loss aims at.

    It looks at the gradient of the loss in the first step, at what the edited layer gives. It
    compares it with that of the negative log-probability of the adapter's target, and of its
    labels. The loss need not be computed from the model's logits, and need not show its target.

    Attributes:
        edit: what is edited. None if SADR did not act on it.
        cosines: for ``target`` and ``labels``, if the adapter gives them: for each rewriting prompt
            that the loss looks at, the cosine between the gradients.
        left_out: the texts of the rows after the prompts that end as one of them does, and that the
            loss looks at.
    """

    def __init__(self) -> None:
        self.edit: Edit | None = None
        self.cosines: dict[str, list[float]] = {}
        self.left_out: list[str] = []
        self._running: Any = None
        self._hidden: Tensor | None = None
        self._input_ids: Tensor | None = None
        self._mask: Tensor | None = None
        self._logits: Tensor | None = None
        self._hook: Any = None

    @hookimpl
    def sadr_loss_terms(self, running: RunningEdit) -> list[LossTerm]:
        """Store the edit, and watch what its layer gives. Return no term."""
        self._running, self.edit = running, running.edit
        layers = layer_modules(running.edit.model, running.edit.layer_template)
        following = layers[running.edit.layer + 1]
        self._hook = following.register_forward_pre_hook(self._enter, with_kwargs=True)
        return []

    @hookimpl
    def sadr_step(self, step: Step) -> None:
        """Compute the target's gradients in the first step, and wait for the backward pass."""
        assert self.edit is not None
        hidden = self._hidden
        if step.index > 0 or hidden is None:
            return
        said = {}
        if self._logits is not None and self.edit.target is not None:
            said["target"] = self._log_probability()
        labels = self._running.labels
        if labels is not None and step.target is not None:  # None: the labels have a wrong form
            said["labels"] = self._log_probability_of(labels)
        wanted = {
            name: torch.autograd.grad(-value, hidden, retain_graph=True)[0]
            for name, value in said.items()
        }
        prompts = len(self._running.rows.positions.prediction)
        texts = self._texts_like_a_prompt()

        def compare(gradient: Tensor) -> None:
            pull = gradient.flatten(1).norm(dim=1)
            for name, other in wanted.items():
                self.cosines[name] = [
                    float(nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))
                    for a, b in zip(gradient[:prompts], other, strict=False)
                    if a.any()
                ]
            least = PULL * pull[:prompts].max()
            self.left_out += [text for row, text in texts.items() if pull[row] > least]

        hidden.register_hook(compare)  # type: ignore[no-untyped-call]

    def _texts_like_a_prompt(self) -> dict[int, str]:
        """Return the text of each row after the prompts that ends as one of them does.

        It ends so if it has the same text from the subject on, with what follows the prompt.
        """
        assert self.edit is not None
        if self._input_ids is None:
            return {}
        rows = self._input_ids.tolist()
        if self._mask is not None and self._mask.shape == self._input_ids.shape:
            rows = [row[mask] for row, mask in zip(self._input_ids, self._mask.bool(), strict=True)]
        # Text, because the first token of a subject may depend on whether text is before it.
        decode = self.edit.tokenizer.decode
        prompts = prompt_tokens(replace(self.edit, edited_token="subject_first"))
        ends = tuple(
            decode(row[prompt.edited :]).strip() for row, prompt in zip(rows, prompts, strict=False)
        )
        others = {row: decode(rows[row]) for row in range(len(prompts), len(rows))}
        return {row: text for row, text in others.items() if text.strip().endswith(ends)}

    def _log_probability(self) -> Tensor:
        """Return the log-probability of the target after all prompts, as the batch has it."""
        assert self.edit is not None
        assert self._logits is not None
        assert self._input_ids is not None
        total = self._logits.new_zeros(())
        positions = self._running.rows.positions.prediction.tolist()
        added = added_at_end(self.edit.tokenizer)
        for row, prompt in enumerate(prompt_tokens(self.edit)):
            text = f"{prompt.prompt.text}{self.edit.target}"
            whole = without_end(self.edit.tokenizer(text)["input_ids"], added)
            target = whole[shared_length(prompt.ids, whole) :]
            at = positions[row]
            follows = shared_length(target[:-1], self._input_ids[row, at + 1 :].tolist())
            said = self._logits[row, at : at + follows + 1].log_softmax(-1)
            for place, token in enumerate(target[: len(said)]):
                total = total + said[place, token]
        return total

    def _log_probability_of(self, labels: Tensor) -> Tensor:
        """Return the log-probability of the loop's own labels."""
        assert self._logits is not None
        row, token = (labels != IGNORED).nonzero(as_tuple=True)
        said = self._logits[row, token].log_softmax(-1)
        return said.gather(-1, labels[row, token].to(said.device).unsqueeze(-1)).sum()

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            self._hidden = hidden_in(args, kwargs)

    def watch(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        """Store the loop's own forward. This is a forward hook for the model, with kwargs."""
        if torch.is_grad_enabled():
            self._input_ids = args[0] if args else kwargs["input_ids"]
            self._mask = kwargs.get("attention_mask")
            self._logits = getattr(output, "logits", None)

    def close(self) -> None:
        """Remove the hook from the model."""
        if self._hook is not None:
            self._hook.remove()


class Start:
    """A plugin that compares an edit's baseline with the attention of the unedited model.

    Attributes:
        gap: the largest difference between the attention rows. None if SADR acted on no edit.
    """

    def __init__(self) -> None:
        self.gap: float | None = None
        self._running: Any = None
        self._unedited: Any = None
        self._given: tuple[Any, dict[str, Any]] = ((), {})
        self._hook: Any = None

    @hookimpl
    def sadr_loss_terms(self, running: RunningEdit) -> list[LossTerm]:
        """Copy the model, before the editor puts its vector into it. Return no term."""
        self._running = running
        self._unedited = copy.deepcopy(running.edit.model)
        self._hook = running.edit.model.register_forward_pre_hook(self._enter, with_kwargs=True)
        return []

    @hookimpl
    def sadr_step(self, step: Step) -> None:
        """Run the batch of the first step in the copy."""
        if step.index > 0:
            return
        rows, (args, kwargs) = self._running.rows, self._given
        found = rows.current if rows.baseline is None else rows.baseline
        edit = replace(self._running.edit, model=self._unedited)
        run = functools.partial(self._unedited, *args, **kwargs)
        with (
            torch.no_grad(),
            tracer_for(watch_of(edit, SadrConfig()), self._running.hooks) as tracer,
        ):
            _, unedited = tracer.run_with_rows(run, rows.positions.prediction)
            self.gap = float((found - stack_layers(unedited, found.device)).abs().max())

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            self._given = args, kwargs

    def close(self) -> None:
        """Remove the hook from the model."""
        if self._hook is not None:
            self._hook.remove()


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
