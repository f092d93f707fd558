"""A drift session: one edit, watched from its first forward to its last step."""

from __future__ import annotations

import functools
import inspect
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from pluggy import HookRelay
from torch import Tensor, nn

from .config import SadrConfig
from .edit import Edit, Report, Step
from .errors import PenaltyError, PositionError, UnsupportedModelError
from .loss import head_divergence
from .positions import Positions, locate
from .probe import AttentionProbe, priced, prompt_tokens, rows_during, stacked, tracer_for
from .target import target_probability, target_tokens


class DriftSession:
    """Watches the forwards of an edit's loop and prices the drift of its attention.

    Use as a context manager around the loop; pass `add_penalty` and `finished` into it. The
    loop's own forwards are told from others (keys, value read-out) by two marks: gradients are
    on, and the batch begins with the edit's prompts. On leaving, the model is as it was.

    Args:
        editor: the editor's name, for the report.
        edit: what is edited.
        config: the user's settings.
        default_gamma: γ where ``config`` has none.
        hooks: receives the steps and the report, and may replace parts of the method.

    Raises:
        PositionError, ConfigError, UnsupportedModelError: here and on entering, before a step.
    """

    def __init__(
        self, editor: str, edit: Edit, config: SadrConfig, default_gamma: float, hooks: HookRelay
    ) -> None:
        self.editor = editor
        self.edit = edit
        self.config = config
        self.gamma = config.weight(default_gamma)
        self.steps: list[Step] = []
        self._hooks = hooks
        # What can be known of the prompts before the loop runs is found out now.
        self._prompts = [] if callable(edit.prompts) else prompt_tokens(edit)
        self._target = [] if config.stop_at is None else target_tokens(edit, editor)
        self._tracer = tracer_for(edit, config, hooks)
        self._forward = ForwardSlot(edit.model)
        self._positions: Positions | None = None
        self._probe: AttentionProbe | None = None
        self._baseline: Tensor | None = None
        self._current: list[Tensor] | None = None
        self._target_probability: float | None = None
        self._last_seen = "none with gradients"
        self._started = 0.0

    def __enter__(self) -> DriftSession:
        self._started = time.perf_counter()
        if not self.edit.zero_start:
            self._probe = AttentionProbe(self.edit, self._hooks, self.config)
        self._tracer.__enter__()
        self._forward.fill(self._watched_forward)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._forward.restore()
        self._tracer.close()
        self._baseline = self._current = self._positions = None
        if error is None:
            self._hooks.sadr_edit_finished(report=self.report())

    def report(self) -> Report:
        """What has happened so far."""
        return Report(
            editor=self.editor,
            layer=self.edit.layer,
            gamma=self.gamma,
            steps=tuple(self.steps),
            seconds=time.perf_counter() - self._started,
        )

    def add_penalty(self, loss: Tensor) -> Tensor:
        """The loss a step goes on with: ``loss + γ · penalty``, on the loss's device.

        The first step's rows are the baseline, the vector being zero then; its penalty is 0.
        Where the edit says that it is not zero, the rows of a forward before the loop are.

        Raises:
            PositionError: no forward of the loop was recognised since the last step.
            UnsupportedModelError: attention carries no gradient.
            PenaltyError: an attention row or the penalty is NaN or infinite.
        """
        if self._current is None or self._positions is None:
            raise PositionError(self._unrecognised())
        current = stacked(self._current, loss.device)
        self._current = None
        if self.gamma > 0 and not current.requires_grad:
            raise UnsupportedModelError(
                f"the attention of {type(self.edit.model).__name__} carries no gradient, so its "
                "drift cannot be restricted; reentrant gradient checkpointing cuts it off, "
                "use_reentrant=False or model.eval() does not"
            )
        # A head whose row is NaN is never selected: its penalty would be 0 and look sound.
        self._refuse_unless_finite(current.sum(-1).sum(1), "attention")
        penalty, selected = 0.0, 0.0
        if self._baseline is None and self._probe is None:
            self._baseline = current.detach()
        else:
            if self._baseline is None:
                assert self._probe is not None
                self._baseline = self._probe.before_in(current, self._positions)
            term, share = self._penalty(self._baseline, current)
            penalty, selected = term.item(), share.item()
            if self.gamma > 0:
                loss = loss + self.gamma * term
        step = Step(len(self.steps), loss.item(), penalty, selected, self._target_probability)
        self.steps.append(step)
        self._hooks.sadr_step(step=step)
        return loss

    def finished(self) -> bool:
        """Whether the edit is made, by ``stop_at``."""
        wanted, reached = self.config.stop_at, self._target_probability
        return wanted is not None and reached is not None and reached >= wanted

    def _penalty(self, baseline: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """The penalty before γ, and the share of heads in it; only γ > 0 pays for a gradient."""
        assert self._positions is not None
        with torch.set_grad_enabled(self.gamma > 0):
            penalty, selected = priced(self._hooks, self.config, baseline, current, self._positions)
        if not torch.isfinite(penalty):
            moved = head_divergence(baseline, current, self.config.divergence).sum(1)
            self._refuse_unless_finite(moved, "drift penalty")
            self._refuse_unless_finite(penalty.view(1, 1), "drift penalty", place="")
        return penalty, selected.float().mean()

    def _refuse_unless_finite(self, values: Tensor, what: str, place: str | None = None) -> None:
        """Abandon the edit if any of ``values``, [layers, heads], is NaN or infinite."""
        bad = (~torch.isfinite(values)).nonzero().tolist()
        if not bad:
            return
        layer, head = bad[0]
        if place is None:
            place = f" in layer {self._tracer.layers[layer]}, head {head}"
        raise PenaltyError(
            f"the {what} is {values[layer, head].item()} at step {len(self.steps)}{place}; the "
            "edit is abandoned. A smaller v_lr or gamma, or a model in float32, may help"
        )

    def _watched_forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        run = functools.partial(forward, *args, **kwargs)
        given = inspect.signature(forward).bind_partial(*args, **kwargs).arguments
        given = {**given, **given.get("kwargs", {})}
        positions = None
        if torch.is_grad_enabled() and isinstance(given.get("input_ids"), Tensor):
            positions = self._positions_in(given["input_ids"], given.get("attention_mask"))
        if positions is None:
            return run()
        output, self._current = rows_during(run, self._tracer, positions)
        self._positions = positions
        if self._target:
            self._target_probability = target_probability(
                output.logits, given["input_ids"], positions, self._target
            )
        return output

    def _positions_in(self, input_ids: Tensor, attention_mask: Tensor | None) -> Positions | None:
        """Where to look in this forward's batch, or None if it is not the loop's own."""
        if not self._prompts:
            self._prompts = prompt_tokens(self.edit)
        positions = locate(self._prompts, input_ids, attention_mask)
        if positions is None:
            self._last_seen = repr(self.edit.tokenizer.decode(input_ids[0]))
        elif self._positions is None and self.edit.counts_from_left:
            self._warn_of_padding(positions)
        return positions

    def _warn_of_padding(self, positions: Positions) -> None:
        counted = [prompt.edited for prompt in self._prompts]
        if positions.subject.tolist() != counted:
            warnings.warn(
                f"{self.editor} counts positions from the left, but its batch is padded on the "
                "left: the token it edits is not the one it means. SADR watches the true "
                'positions; set tokenizer.padding_side = "right" to have both agree',
                stacklevel=2,
            )

    def _unrecognised(self) -> str:
        expected = self._prompts[0].prompt
        return (
            f"no forward of the {self.editor} loop could be recognised: its batch should begin "
            f"with {expected.text!r}, with the subject {expected.subject!r} tokenized as it is "
            f"in that prompt alone; the last batch began with {self._last_seen}"
        )


class ForwardSlot:
    """A model's ``forward``, for a while replaced by another that is given the original."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._filled = False
        self._had_own: Any = None

    def fill(self, replacement: Callable[..., Any]) -> None:
        """Have the model call ``replacement(forward, …)`` in place of ``forward(…)``."""
        original = self._model.forward
        self._had_own = self._model.__dict__.get("forward")

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return replacement(original, *args, **kwargs)

        self._model.__dict__["forward"] = forward
        self._filled = True

    def restore(self) -> None:
        """Put the original back. May be called more than once."""
        if not self._filled:
            return
        if self._had_own is None:
            self._model.__dict__.pop("forward", None)
        else:
            self._model.__dict__["forward"] = self._had_own
        self._filled = False
