"""A drift session: one edit, watched from its first forward to its last step."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from pluggy import HookRelay
from torch import Tensor

from ..adapter import Edit, EditPoint
from ..attention._rows import rows_of
from ..attention._tracer import tracer_for
from ..config import SadrConfig
from ..errors import PenaltyError, PositionError, UnsupportedModelError
from ..events import Report, Step
from ..patching._forward import ForwardSlot, signature_of
from ..reuse._reuse import reuse_for
from ._batch import LoopBatch
from ._log import log_end, log_start
from ._measure import DriftProbe, penalise, stack_layers, watch_of
from ._positions import Positions
from ._stopping import check_target
from .penalty import head_divergence


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
        self._batch = LoopBatch(point, edit, needs_target=config.stop_at is not None)
        if config.stop_at is not None:
            check_target(point, edit)
        watch = watch_of(edit, config)
        self._tracer = tracer_for(watch, hooks)
        self._reuse = reuse_for(watch, hooks) if config.reuse else None
        self._forward = ForwardSlot(edit.model)
        self._signature = signature_of(edit.model.forward)
        self._positions: Positions | None = None
        self._probe: DriftProbe | None = None
        self._baseline: Tensor | None = None
        self._current: list[Tensor] | None = None
        self._logits: Tensor | None = None
        self._started = 0.0

    def __enter__(self) -> DriftSession:
        self._started = time.perf_counter()
        try:
            # First of all: what comes after has to find the model to itself.
            self._forward.fill(self._watched_forward)
            if not self.edit.zero_start:
                self._probe = DriftProbe(self.edit, self.config)
            self._tracer.__enter__()
            if self._reuse is not None:
                self._reuse.fill()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        report = self.report()
        self._leave()
        log_end(report, error)
        if error is None:
            self._hooks.sadr_edit_finished(report=report)

    def _leave(self) -> None:
        """Give the model back as it was, and let go of what was seen."""
        try:
            if self._reuse is not None:
                self._reuse.restore()
        finally:
            try:
                self._tracer.close()
            finally:
                self._forward.restore()
        self._baseline = self._current = self._positions = self._logits = None

    def report(self) -> Report:
        """What has happened so far."""
        return Report(
            editor=self._point.editor,
            layer=self.edit.layer,
            gamma=self.gamma,
            steps=tuple(self.steps),
            seconds=time.perf_counter() - self._started,
            reused=0.0 if self._reuse is None else self._reuse.left_out(),
        )

    def add_penalty(self, loss: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss a step goes on with: ``loss + γ · penalty``, on the loss's device.

        The first step's rows are the baseline, the vector being zero then; its penalty is 0.
        Where the edit says that it is not zero, the rows of a forward before the loop are.

        Args:
            loss: the step's loss, a scalar.
            labels: the loop's own; see `EditPoint.labels`.

        Raises:
            PositionError: no forward of the loop was recognised since the last step, or the
                vector has moved to another token.
            UnsupportedModelError: attention carries no gradient.
            PenaltyError: an attention row or the penalty is NaN or infinite.
        """
        if self._current is None or self._positions is None:
            raise PositionError(self._batch.unrecognised())
        current = stack_layers(self._current, loss.device)
        self._current = None
        if self.gamma > 0 and not current.requires_grad:
            raise UnsupportedModelError(
                f"the attention of {type(self.edit.model).__name__} carries no gradient, so its "
                "drift cannot be restricted; reentrant gradient checkpointing cuts it off, "
                "use_reentrant=False or model.eval() does not"
            )
        if not self.steps:
            layers, _, heads, _ = current.shape
            log_start(self.report(), self.config, (layers, heads), self._limit)
        penalty = selected = current.new_zeros(())
        if self._baseline is None and self._probe is not None:
            self._baseline = self._probe.before_in(current, self._positions)
        if self._baseline is None:
            self._baseline = current.detach()
        else:
            penalty, selected = self._penalty(self._baseline, current)
            if self.gamma > 0:
                loss = loss + self.gamma * penalty
        step = self._step(loss, current, penalty, selected, labels)
        self.steps.append(step)
        self._hooks.sadr_step(step=step)
        return loss

    def finished(self) -> bool:
        """Whether the edit is made, by ``stop_at``."""
        wanted = self.config.stop_at
        reached = self.steps[-1].target if self.steps else None
        return wanted is not None and reached is not None and reached >= wanted

    def _penalty(self, baseline: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        """The penalty before γ, and the share of heads in it; only γ > 0 pays for a gradient."""
        assert self._positions is not None
        with torch.set_grad_enabled(self.gamma > 0):
            penalty, selected = penalise(
                self._hooks, self.config, baseline, current, self._positions
            )
        return penalty, selected.float().mean()

    @torch.no_grad()
    def _step(
        self,
        loss: Tensor,
        current: Tensor,
        penalty: Tensor,
        selected: Tensor,
        labels: Tensor | None,
    ) -> Step:
        """The step as numbers, which are fetched from the device all at once, and sound."""
        assert self._positions is not None
        logits, self._logits = self._logits, None
        target = self._batch.target(labels, logits)
        strayed = None if self._reuse is None else self._reuse.strayed
        values = {
            "loss": loss,
            "penalty": penalty,
            "selected": selected,
            # A head whose row is NaN is never selected: its penalty would be 0 and look sound.
            "unsound": ~torch.isfinite(current.sum()) | ~torch.isfinite(penalty),
            "strayed": strayed,
            "ahead": None if self.steps else self._seen_ahead(current),
            "target": target,
        }
        given = {name: value for name, value in values.items() if value is not None}
        kind = torch.promote_types(loss.dtype, torch.float32)
        fetched = torch.stack([v.detach().to(loss.device, kind) for v in given.values()]).tolist()
        found = dict(zip(given, fetched, strict=True))
        if found["unsound"]:
            self._complain(current, penalty)
        if found.get("strayed"):
            raise PositionError(
                f"at step {len(self.steps)} the vector of {self._point.editor} is at other tokens "
                "than before; set sadr.reuse to false"
            )
        if found.get("ahead") and self._reuse is not None and self._reuse.refusal is None:
            self._reuse.refuse("its tokens attend to later ones")
        return Step(
            index=len(self.steps),
            loss=found["loss"],
            penalty=found["penalty"],
            selected=found["selected"],
            target=found.get("target"),
        )

    def _seen_ahead(self, rows: Tensor) -> Tensor:
        """Whether a prompt attends to what comes after its prediction position, a scalar."""
        assert self._positions is not None
        token = torch.arange(rows.shape[-1], device=rows.device)
        later = token > self._positions.prediction.to(rows.device).view(-1, 1, 1)
        return (rows * later).any()

    def _complain(self, current: Tensor, penalty: Tensor) -> None:
        """Abandon the edit, naming the first layer and head at fault."""
        self._refuse_unless_finite(current.sum(-1).sum(1), "attention")
        if self._baseline is not None:
            moved = head_divergence(self._baseline, current, self.config.divergence).sum(1)
            self._refuse_unless_finite(moved, "drift penalty")
        self._refuse_unless_finite(penalty.view(1, 1), "drift penalty", place="")

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
        given = self._by_name(args, kwargs)
        positions = None
        if torch.is_grad_enabled() and isinstance(given.get("input_ids"), Tensor):
            positions = self._batch.positions(given["input_ids"], given.get("attention_mask"))
        if positions is None:
            return forward(*args, **kwargs)
        run = functools.partial(forward, *args, **kwargs)
        if self._reuse is None:
            output, seen = self._tracer.run(run)
            start = None
        else:
            within = functools.partial(self._tracer.run, functools.partial(self._reuse.within, run))
            output, seen = self._reuse.run(within, given, positions.prediction)
            start = self._reuse.start(positions.prediction.device)
        self._current = rows_of(seen, positions.prediction, start)
        self._positions = positions
        self._logits = getattr(output, "logits", None)
        return output

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the model's forward."""
        given = dict(self._signature.bind_partial(*args, **kwargs).arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                given.update(given.pop(name, {}))
        return given
