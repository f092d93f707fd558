"""A drift session: one edit, watched from its first forward to its last step."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from pluggy import HookRelay
from torch import Tensor, nn

from .attention import attention_rows, drifting_layers, layer_modules
from .config import SadrConfig
from .edit import Edit, Report, Step
from .errors import PenaltyError, PositionError, UnsupportedModelError
from .loss import head_divergence, selected_heads
from .positions import Positions, locate, tokenize
from .tracing import AttentionTracer


class DriftSession:
    """Watches the forwards of an edit's loop and prices the drift of its attention.

    Use as a context manager around the loop; pass `add_penalty` into it as the loss term. The
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
        if not edit.prompts:
            raise PositionError(f"the {editor} edit has no rewriting prompts")
        self._prompts = [
            tokenize(edit.tokenizer, prompt, edit.edited_token) for prompt in edit.prompts
        ]
        self._tracer = AttentionTracer(attention_modules(edit, config, hooks))
        self._forward = ForwardSlot(edit.model)
        self._positions: Positions | None = None
        self._baseline: Tensor | None = None
        self._current: list[Tensor] | None = None
        self._last_seen = "none with gradients"
        self._started = 0.0

    def __enter__(self) -> DriftSession:
        self._started = time.perf_counter()
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

        Raises:
            PositionError: no forward of the loop was recognised since the last step.
            PenaltyError: the penalty is NaN or infinite.
        """
        if self._current is None or self._positions is None:
            raise PositionError(self._unrecognised())
        current = _stacked(self._current, loss.device)
        self._current = None
        penalty, selected = 0.0, 0.0
        if self._baseline is None:
            self._baseline = current.detach()
        else:
            term = self._penalty(self._baseline, current)
            penalty, selected = term.item(), self._selected(self._baseline, current)
            if self.gamma > 0:
                loss = loss + self.gamma * term
        step = Step(len(self.steps), loss.item(), penalty, selected)
        self.steps.append(step)
        self._hooks.sadr_step(step=step)
        return loss

    def _penalty(self, baseline: Tensor, current: Tensor) -> Tensor:
        """The penalty before γ, a scalar; only γ > 0 pays for its gradient."""
        assert self._positions is not None
        with torch.set_grad_enabled(self.gamma > 0):
            penalty: Tensor = self._hooks.sadr_penalty(
                baseline=baseline,
                current=current,
                subject_index=self._positions.subject,
                config=self.config,
            )
        if not torch.isfinite(penalty):
            moved = head_divergence(baseline, current, self.config.divergence).sum(1)
            bad = (~torch.isfinite(moved)).nonzero().tolist()
            where = f" (layer {self._tracer.layers[bad[0][0]]}, head {bad[0][1]})" if bad else ""
            raise PenaltyError(
                f"the drift penalty is {penalty.item()} at step {len(self.steps)}{where}; the "
                "edit is abandoned. A smaller v_lr or gamma, or a model in float32, may help"
            )
        return penalty

    def _selected(self, baseline: Tensor, current: Tensor) -> float:
        if not self.config.select_heads:
            return 1.0
        assert self._positions is not None
        with torch.no_grad():
            mask = selected_heads(baseline, current, self._positions.subject)
        return mask.float().mean().item()

    def _watched_forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        run = functools.partial(forward, *args, **kwargs)
        positions = self._positions_in(*args, **kwargs) if torch.is_grad_enabled() else None
        if positions is None:
            return run()
        output, self._current = _rows_during(run, self._tracer, positions)
        self._positions = positions
        return output

    def _positions_in(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Positions | None:
        """Where to look in this forward's batch, or None if it is not the loop's own."""
        if input_ids is None:
            return None
        positions = locate(self._prompts, input_ids, attention_mask)
        if positions is None:
            self._last_seen = repr(self.edit.tokenizer.decode(input_ids[0]))
        return positions

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


def attention_modules(edit: Edit, config: SadrConfig, hooks: HookRelay) -> dict[int, nn.Module]:
    """The attention module of each layer that is restricted.

    Raises:
        UnsupportedModelError: naming the model's class and the first layer at fault.
    """
    model_name = type(edit.model).__name__
    layers = layer_modules(edit.model, edit.layer_template)
    modules: dict[int, nn.Module] = {}
    for index in drifting_layers(edit.layer, len(layers), config.layers, model_name):
        module = hooks.sadr_attention_module(model=edit.model, layer=layers[index])
        if module is None:
            raise UnsupportedModelError(
                f"{model_name} is not supported: no single module in its layer {index} "
                f"({type(layers[index]).__name__}) calls transformers' attention_interface, "
                "where SADR reads attention. A sadr_attention_module hook can point at it"
            )
        modules[index] = module
    return modules


class AttentionProbe:
    """An edit's attention rows, measured from outside: what drift is counted in.

    Rows before an edit are compared with rows after it, on the model as it then stands,
    whichever editor changed it and with or without SADR.

    Args:
        edit: the prompts to look at, and the layer after which to look.
        hooks: may replace where attention is found and how it is priced.
    """

    def __init__(self, edit: Edit, hooks: HookRelay) -> None:
        self._edit = edit
        self._hooks = hooks
        self._config = SadrConfig()
        self._before, _ = self._rows()

    def drift(self) -> float:
        """The drift penalty at γ = 1 since the probe was made."""
        rows, positions = self._rows()
        penalty: Tensor = self._hooks.sadr_penalty(
            baseline=self._before,
            current=rows,
            subject_index=positions.subject,
            config=self._config,
        )
        return penalty.item()

    @torch.no_grad()
    def _rows(self) -> tuple[Tensor, Positions]:
        edit = self._edit
        prompts = [tokenize(edit.tokenizer, prompt, edit.edited_token) for prompt in edit.prompts]
        device = next(edit.model.parameters()).device
        batch = edit.tokenizer(
            [prompt.text for prompt in edit.prompts], padding=True, return_tensors="pt"
        ).to(device)
        positions = locate(prompts, batch["input_ids"], batch["attention_mask"])
        if positions is None:
            raise PositionError(
                f"{prompts[0].prompt.text!r} is not tokenized in a batch as it is alone"
            )
        run = functools.partial(edit.model, **batch)
        with AttentionTracer(attention_modules(edit, self._config, self._hooks)) as tracer:
            _, rows = _rows_during(run, tracer, positions)
        return _stacked(rows, device), positions


def _rows_during(
    run: Callable[[], Any], tracer: AttentionTracer, positions: Positions
) -> tuple[Any, list[Tensor]]:
    """What ``run`` returns, and the rows of each watched layer, [prompts, heads, tokens]."""
    output, calls = tracer.run(run)
    return output, [attention_rows(call, positions.prediction) for call in calls]


def _stacked(rows: Sequence[Tensor], device: torch.device) -> Tensor:
    """Rows of every layer as one tensor, [layers, prompts, heads, tokens].

    A layer with fewer heads is filled up with rows of zeros, which neither drift nor count.
    """
    heads = max(layer.shape[1] for layer in rows)
    return torch.stack(
        [
            nn.functional.pad(layer.to(device), (0, 0, 0, heads - layer.shape[1]))
            if layer.shape[1] < heads
            else layer.to(device)
            for layer in rows
        ]
    )
