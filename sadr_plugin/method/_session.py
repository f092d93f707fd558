"""A session: the work of the plugin during one edit, from the first forward to the last step."""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch
from pluggy import HookRelay
from torch import Tensor

from .._signatures import signature_of
from .._threads import forward_here
from ..adapter import Edit, EditPoint
from ..attention._layers import layer_modules
from ..attention._rows import rows_of
from ..attention._tracer import tracer_for
from ..config import SadrConfig
from ..errors import PenaltyError, PositionError
from ..events import Report, Step
from ..replay._vectors import Vectors
from ..reuse._reuse import reuse_for
from ..reuse._slot import ForwardSlot
from ..terms import Positions, Rows
from ._batch import LoopBatch
from ._drift_term import DRIFT, complain, not_finite
from ._log import log_end, log_start, log_what_is_missing
from ._place import VectorPlace
from ._probe import DriftProbe
from ._rows import stack_layers, watch_of
from ._running import Running
from ._stopping import check_target
from ._terms import terms_of, value_of


class EditSession:
    """Watches the forwards of an edit's loop and adds terms to its loss, SADR's among them.

    Use it as a context manager around the loop. The loop calls `add_terms` and `finished`. A
    toolkit also runs other forwards, for keys and value read-outs. The loop's own forwards have two
    marks: gradients are on, and the batch begins with the edit's prompts. When the block ends, the
    model is as it was before.

    Args:
        point: the editor's declaration.
        edit: what is edited.
        config: the user's settings.
        hooks: give the terms, and receive the steps and the report.
        limit: the largest number of steps that the editor takes, for the log. None if it is not
            known.

    Raises:
        PositionError, ConfigError, UnsupportedModelError, BusyModelError, AttachmentError: here or
            on entering, before the first step.
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
        self.steps: list[Step] = []
        self._point = point
        self._hooks = hooks
        self._limit = limit
        self._batch = LoopBatch(point, edit, needs_target=config.stop_at is not None)
        if config.stop_at is not None:
            check_target(point, edit)
        watch = watch_of(edit, config)
        self._tracer = tracer_for(watch, hooks)
        self._place = VectorPlace(point, edit)
        self._reuse = reuse_for(watch, hooks) if config.reuse else None
        others = None if self._reuse is None else self._reuse.for_other_prompts
        layers = layer_modules(edit.model, edit.layer_template)
        self._vectors = Vectors(layers[edit.layer], point.editor)
        self._running = Running(point, edit, hooks, self._vectors, others)
        self._terms = terms_of(self._running, config)
        self._without_gradient = {term.name for term in self._terms if term.weight > 0}
        self._has_more_terms = any(term.name != DRIFT for term in self._terms)
        self._forward = ForwardSlot(edit.model)
        self._signature = signature_of(edit.model.forward)
        self._positions: Positions | None = None
        self._probe: DriftProbe | None = None
        self._baseline: Tensor | None = None
        self._current: list[Tensor] | None = None
        self._logits: Tensor | None = None
        self._started = 0.0

    def __enter__(self) -> EditSession:
        self._started = time.perf_counter()
        try:
            # This comes first because it refuses a model that another edit uses.
            # Another thread may use the model, too.
            self._forward.fill(forward_here(self._watched_forward))
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
        try:
            report = self.report()  # it asks plugins' terms for their weights, which may raise
        finally:
            self._leave()
        log_end(report, error)
        if error is None:
            log_what_is_missing(report, self._limit)
            self._warn_of_terms_without_effect()
            self._hooks.sadr_edit_finished(report=report)

    def _warn_of_terms_without_effect(self) -> None:
        if len(self.steps) < 2:
            return  # SADR's own term is a constant at the first step
        for name in sorted(self._without_gradient):
            warnings.warn(
                f"SADR: the term {name!r} had a weight and never a gradient: it restrained nothing",
                stacklevel=3,
            )

    def _leave(self) -> None:
        """Restore the model, and release the tensors that were stored."""
        try:
            if self._reuse is not None:
                self._reuse.restore()
        finally:
            try:
                self._tracer.close()
            finally:
                self._forward.restore()
        self._baseline = self._current = self._positions = self._logits = None
        self._terms = []
        self._place.forget()
        self._vectors.forget()
        vars(self._running).pop("rows", None)  # a plugin may keep the running edit

    def report(self) -> Report:
        """Return what has happened so far."""
        return Report(
            editor=self._point.editor,
            layer=self.edit.layer,
            weights={term.name: term.weight for term in self._terms},
            steps=tuple(self.steps),
            seconds=time.perf_counter() - self._started,
            reused=0.0 if self._reuse is None else self._reuse.left_out(),
            stop_at=self.config.stop_at,
        )

    def add_terms(self, loss: Tensor, labels: Tensor | None = None) -> Tensor:
        """Add the terms to the loss of a step.

        If the vector starts from zero, the rows of the first step are the baseline, and SADR's term
        is 0 there. Otherwise the baseline comes from a forward before the loop.

        Args:
            loss: the step's loss, a scalar.
            labels: the loop's own labels; see `EditPoint.labels`.

        Returns:
            ``loss + Σ weight · term``, on the loss's device.

        Raises:
            PositionError: no forward of the loop was recognised since the last step, or the vector
                has moved to another token.
            AttachmentError: the vector is not added in the edited layer, or a plugin's term is
                none.
            UnsupportedModelError: attention carries no gradient.
            UnsupportedLoopError: no hook that adds the vector was seen, and a term needs it.
            PenaltyError: an attention row or a term is NaN or infinite.
        """
        if self._current is None or self._positions is None:
            raise PositionError(self._batch.unrecognised())
        current = stack_layers(self._current, loss.device)
        self._current = None
        if not self.steps:
            self._place.check()
            layers, _, heads, _ = current.shape
            log_start(self.report(), self.config, (layers, heads), self._limit)
        if self._baseline is None and self._probe is not None:
            self._baseline = self._probe.before_in(current, self._positions)
        running = self._running
        running.step = len(self.steps)
        running.rows = Rows(self._baseline, current, self._positions)
        running.labels = labels
        running.selected = current.new_zeros(())
        values = {}
        for term in self._terms:
            with torch.set_grad_enabled(term.weight > 0):
                values[term.name] = value = value_of(term)
            if term.weight > 0:
                loss = loss + term.weight * value.to(loss.device)
            if value.requires_grad:
                self._without_gradient.discard(term.name)
        if self._baseline is None:
            self._baseline = current.detach()
        step = self._step(loss, values, labels)
        self.steps.append(step)
        self._hooks.sadr_step(step=step)
        return loss

    def finished(self) -> bool:
        """Whether the target's probability has reached ``stop_at``."""
        wanted = self.config.stop_at
        reached = self.steps[-1].target if self.steps else None
        return wanted is not None and reached is not None and reached >= wanted

    @torch.no_grad()
    def _step(self, loss: Tensor, terms: dict[str, Tensor], labels: Tensor | None) -> Step:
        """Fetch the numbers of a step from the device, all at once, and check them."""
        running = self._running
        current = running.rows.current
        logits, self._logits = self._logits, None
        astray = self._place.astray(running.rows.positions.subject) if self.steps else None
        target, likeliest = self._batch.target(labels, logits)
        values = {
            **{f"term {name}": value for name, value in terms.items()},
            "loss": loss,
            "selected": running.selected,
            # A head whose row is NaN is never selected, so its penalty would be 0 and look correct.
            "unsound": ~torch.isfinite(current.sum()),
            "strayed": None if self._reuse is None else self._reuse.strayed,
            "ahead": None if self.steps else self._seen_ahead(current),
            "target": target,
            "likeliest": likeliest,
            "astray": None if astray is None else astray.any(),
            "vector": self._vectors.length() if self._vectors.are_replayed else None,
        }
        found = _fetched(values, loss)
        if found.get("astray"):
            assert astray is not None
            assert self._place.moved is not None
            self._batch.warn_of_another_token(astray, self._place.moved)
        if astray is not None:
            self._place.forget()
        return self._checked_step(found, {name: found[f"term {name}"] for name in terms})

    def _checked_step(self, found: dict[str, float], terms: dict[str, float]) -> Step:
        running, index = self._running, len(self.steps)
        unsound = [name for name, value in terms.items() if not math.isfinite(value)]
        if found["unsound"] or unsound:
            complain(running.rows, self.config, self._tracer.layers, index)
            name = unsound[0]
            raise PenaltyError(not_finite(f"term {name!r} of the loss is {terms[name]}", index))
        if found.get("strayed"):
            raise PositionError(
                f"at step {index} the vector of {self._point.editor} is at other tokens than "
                "before; set sadr.reuse to false"
            )
        if found.get("vector") == 0 and index > 0:
            raise PositionError(
                f"at step {index} the vector of {self._point.editor} is not at the token that its "
                "adapter says; other prompts cannot be run with it"
            )
        if found.get("ahead") and self._reuse is not None and self._reuse.refusal is None:
            self._reuse.refuse("its tokens attend to later ones")
        return Step(
            index=index,
            loss=found["loss"],
            terms=terms,
            selected=found["selected"],
            target=found.get("target"),
            likeliest=found.get("likeliest"),
        )

    def _seen_ahead(self, rows: Tensor) -> Tensor:
        """Whether a prompt attends to tokens after its prediction position, as a scalar tensor."""
        assert self._positions is not None
        token = torch.arange(rows.shape[-1], device=rows.device)
        later = token > self._positions.prediction.to(rows.device).view(-1, 1, 1)
        return (rows * later).any()

    def _place_watched(self) -> AbstractContextManager[None]:
        # The first step shows the vector's layer, the second its token.
        return nullcontext() if len(self.steps) > 1 else self._place.watched()

    def _vectors_watched(self) -> AbstractContextManager[None]:
        if not self._has_more_terms:
            return nullcontext()
        return self._vectors.watched(*self._batch.edited_place())

    def _watched_forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = self._by_name(args, kwargs)
        positions = None
        is_loops = torch.is_grad_enabled() and not self._vectors.are_aside()
        if is_loops and isinstance(given.get("input_ids"), Tensor):
            positions = self._batch.positions(given["input_ids"], given.get("attention_mask"))
        if positions is None:
            return forward(*args, **kwargs)
        run = functools.partial(forward, *args, **kwargs)
        with self._place_watched(), self._vectors_watched():
            if self._reuse is None:
                output, seen = self._tracer.run(run)
                span = None
            else:
                within = functools.partial(self._reuse.within, run)
                traced = functools.partial(self._tracer.run, within)
                output, seen = self._reuse.run(traced, given, positions.prediction)
                span = self._reuse.span(positions.prediction.device)
        self._current = rows_of(seen, positions.prediction, span)
        self._positions = positions
        self._logits = getattr(output, "logits", None)
        return output

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the model's forward, by name."""
        given = dict(self._signature.bind_partial(*args, **kwargs).arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                given.update(given.pop(name, {}))
        return given


def _fetched(values: Mapping[str, Tensor | None], like: Tensor) -> dict[str, float]:
    """Turn scalar tensors into numbers, with one transfer. None values are left out."""
    given = {name: value for name, value in values.items() if value is not None}
    kind = torch.promote_types(like.dtype, torch.float32)
    scalars = [value.detach().to(like.device, kind) for value in given.values()]
    return dict(zip(given, torch.stack(scalars).tolist(), strict=True)) if scalars else {}
