"""A drift session: one edit, watched from its first forward to its last step."""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from pluggy import HookRelay
from torch import Tensor

from ..adapter import Edit, EditPoint
from ..attention._tracer import tracer_for
from ..config import SadrConfig
from ..errors import PenaltyError, PositionError, SadrError, UnsupportedModelError
from ..events import Report, Step
from ..patching._forward import ForwardSlot, signature_of
from ._measure import DriftProbe, penalise, stack_layers, watch_of
from ._positions import Positions, locate, prompt_tokens
from ._stopping import check_labels, check_target, labels_behind, target_probability
from .penalty import head_divergence

LOGGER = logging.getLogger("sadr_plugin")


class DriftSession:
    """Watches the forwards of an edit's loop and restrains the drift of its attention.

    Use as a context manager around the loop; pass `add_penalty` and `finished` into it. The
    loop's own forwards are told from others (keys, value read-out) by two marks: gradients are
    on, and the batch begins with the edit's prompts. On leaving, the model is as it was.

    Args:
        point: the editor's declaration.
        edit: what is edited.
        config: the user's settings.
        hooks: receives the steps and the report, and may replace parts of the method.
        limit: the most steps the editor will take, for the log; None if that is not known.

    Raises:
        PositionError, ConfigError, UnsupportedModelError, BusyModelError: here and on entering,
            before a step.
    """

    def __init__(
        self,
        point: EditPoint,
        edit: Edit,
        config: SadrConfig,
        hooks: HookRelay,
        limit: int | None = None,
    ) -> None:
        self.edit = edit
        self.config = config
        self.gamma = config.weight(point.gamma)
        self.steps: list[Step] = []
        self._point = point
        self._hooks = hooks
        self._limit = limit
        # What can be known of the prompts before the loop runs is found out now.
        self._prompts = [] if callable(edit.prompts) else prompt_tokens(edit)
        if config.stop_at is not None:
            check_target(point, edit)
        self._tracer = tracer_for(watch_of(edit, config), hooks)
        self._forward = ForwardSlot(edit.model)
        self._positions: Positions | None = None
        self._probe: DriftProbe | None = None
        self._baseline: Tensor | None = None
        self._current: list[Tensor] | None = None
        self._logits: Tensor | None = None
        self._input_ids: Tensor | None = None
        self._last_seen = "none with gradients"
        self._started = 0.0

    def __enter__(self) -> DriftSession:
        self._started = time.perf_counter()
        try:
            # First of all: what comes after has to find the model to itself.
            self._forward.fill(self._watched_forward)
            if not self.edit.zero_start:
                self._probe = DriftProbe(self.edit, self.config)
            self._tracer.__enter__()
        except BaseException:
            self._forward.restore()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._tracer.close()
        finally:
            self._forward.restore()
        self._baseline = self._current = self._positions = self._logits = self._input_ids = None
        report = self.report()
        self._log_end(report, error)
        if error is None:
            self._hooks.sadr_edit_finished(report=report)

    def report(self) -> Report:
        """What has happened so far."""
        return Report(
            editor=self._point.editor,
            layer=self.edit.layer,
            gamma=self.gamma,
            steps=tuple(self.steps),
            seconds=time.perf_counter() - self._started,
        )

    def add_penalty(self, loss: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss a step goes on with: ``loss + γ · penalty``, on the loss's device.

        The first step's rows are the baseline, the vector being zero then; its penalty is 0.
        Where the edit says that it is not zero, the rows of a forward before the loop are.

        Args:
            loss: the step's loss, a scalar.
            labels: the loop's own; see `EditPoint.labels`.

        Raises:
            PositionError: no forward of the loop was recognised since the last step.
            UnsupportedModelError: attention carries no gradient.
            PenaltyError: an attention row or the penalty is NaN or infinite.
        """
        if self._current is None or self._positions is None:
            raise PositionError(self._unrecognised())
        current = stack_layers(self._current, loss.device)
        self._current = None
        if self.gamma > 0 and not current.requires_grad:
            raise UnsupportedModelError(
                f"the attention of {type(self.edit.model).__name__} carries no gradient, so its "
                "drift cannot be restricted; reentrant gradient checkpointing cuts it off, "
                "use_reentrant=False or model.eval() does not"
            )
        # A head whose row is NaN is never selected: its penalty would be 0 and look sound.
        self._refuse_unless_finite(current.sum(-1).sum(1), "attention")
        if not self.steps:
            self._log_start(current)
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
        step = Step(len(self.steps), loss.item(), penalty, selected, self._target(labels))
        self.steps.append(step)
        self._hooks.sadr_step(step=step)
        return loss

    def finished(self) -> bool:
        """Whether the edit is made, by ``stop_at``."""
        wanted = self.config.stop_at
        reached = self.steps[-1].target if self.steps else None
        return wanted is not None and reached is not None and reached >= wanted

    def _target(self, labels: Tensor | None) -> float | None:
        """The target's probability in the forward just seen; None where nothing tells it."""
        logits, self._logits = self._logits, None
        assert self._input_ids is not None
        assert self._positions is not None
        if labels is None and self.edit.target is None:
            return None
        try:
            if logits is None:
                raise UnsupportedModelError(
                    f"sadr.stop_at: the forward of {type(self.edit.model).__name__} returns no "
                    "`logits`; remove the key"
                )
            if labels is None:
                labels = labels_behind(self.edit, self._prompts, self._input_ids, self._positions)
            else:
                check_labels(self._point, labels, logits)
            return target_probability(logits, labels).item()
        except SadrError:
            if self.config.stop_at is not None:
                raise
            return None  # it would only have been looked at

    def _penalty(self, baseline: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """The penalty before γ, and the share of heads in it; only γ > 0 pays for a gradient."""
        assert self._positions is not None
        with torch.set_grad_enabled(self.gamma > 0):
            penalty, selected = penalise(
                self._hooks, self.config, baseline, current, self._positions
            )
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
        given = signature_of(forward).bind_partial(*args, **kwargs).arguments
        given = {**given, **given.get("kwargs", {})}
        positions = None
        if torch.is_grad_enabled() and isinstance(given.get("input_ids"), Tensor):
            positions = self._positions_in(given["input_ids"], given.get("attention_mask"))
        if positions is None:
            return run()
        output, self._current = self._tracer.run_with_rows(run, positions.prediction)
        self._positions = positions
        self._input_ids = given["input_ids"]
        self._logits = getattr(output, "logits", None)
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
                f"{self._point.editor} counts positions from the left, but its batch is padded on "
                "the left: the token it edits is not the one it means. SADR watches the true "
                'positions; set tokenizer.padding_side = "right" to have both agree',
                stacklevel=2,
            )

    def _unrecognised(self) -> str:
        expected = self._prompts[0].prompt
        return (
            f"no forward of the {self._point.editor} loop could be recognised: its batch should "
            f"begin with {expected.text!r}, with the subject {expected.subject!r} tokenized as it "
            f"is in that prompt alone; the last batch began with {self._last_seen}"
        )

    def _log_start(self, rows: Tensor) -> None:
        layers, _, heads, _ = rows.shape
        rules = ["by the editor's own rule"]
        if self.config.stop_at is not None:
            rules.insert(0, f"once the target's probability is {self.config.stop_at:g}")
        if self._limit is not None:
            rules.append(f"after {self._limit} steps at the latest")
        LOGGER.info(
            "SADR: %s edits layer %d with gamma = %g; attention is watched in %d layers of %d "
            "heads; it stops %s",
            self._point.editor,
            self.edit.layer,
            self.gamma,
            layers,
            heads,
            ", ".join(rules),
        )

    def _log_end(self, report: Report, error: BaseException | None) -> None:
        ended = "ended" if error is None else f"was broken off ({type(error).__name__})"
        if not report.steps:
            LOGGER.info("SADR: %s %s without a step", report.editor, ended)
            return
        last = report.steps[-1]
        target = "not known" if last.target is None else f"{last.target:.3f}"
        LOGGER.info(
            "SADR: %s %s after %d steps: penalty %.4g at first, %.4g at last; probability of the "
            "target %s; %.1f s",
            report.editor,
            ended,
            len(report.steps),
            next((s.penalty for s in report.steps if s.penalty), 0.0),
            last.penalty,
            target,
            report.seconds,
        )
