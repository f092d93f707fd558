"""An edit's attention rows: which modules give them, and how they are measured from outside."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pluggy import HookRelay
from torch import Tensor, nn

from .config import SadrConfig
from .edit import Edit
from .errors import PositionError, UnsupportedModelError
from .layers import attention_modules
from .positions import Positions, PromptTokens, locate, tokenize
from .tracing import AttentionTracer


class AttentionProbe:
    """An edit's attention rows, measured from outside: what drift is counted in.

    Rows before an edit are compared with rows after it, on the model as it then stands,
    whichever editor changed it and with or without SADR.

    Args:
        edit: the prompts to look at, and the layer after which to look.
        hooks: may replace where attention is found and how it is priced.
        config: which layers count and how; the paper's settings if None.
    """

    def __init__(self, edit: Edit, hooks: HookRelay, config: SadrConfig | None = None) -> None:
        self._edit = edit
        self._hooks = hooks
        self._config = config or SadrConfig()
        self._before, self._positions = self._rows()

    def drift(self) -> float:
        """The drift penalty at γ = 1 since the probe was made."""
        rows, positions = self._rows()
        penalty, _ = priced(self._hooks, self._config, self._before, rows, positions)
        return penalty.item()

    def before_in(self, rows: Tensor, positions: Positions) -> Tensor:
        """The rows from before, laid out as ``rows`` of a longer or otherwise padded batch."""
        before = torch.zeros_like(rows)
        for prompt, (was, now) in enumerate(
            zip(self._positions.prediction.tolist(), positions.prediction.tolist(), strict=True)
        ):
            seen = min(was, now) + 1  # no row attends beyond its own position
            before[:, prompt, :, now + 1 - seen : now + 1] = self._before[
                :, prompt, :, was + 1 - seen : was + 1
            ].to(rows.device)
        return before

    @torch.no_grad()
    def _rows(self) -> tuple[Tensor, Positions]:
        edit = self._edit
        prompts = prompt_tokens(edit)
        device = input_device(edit.model)
        batch = edit.tokenizer(
            [tokens.prompt.text for tokens in prompts], padding=True, return_tensors="pt"
        ).to(device)
        positions = locate(prompts, batch["input_ids"], batch["attention_mask"])
        if positions is None:
            raise PositionError(
                f"{prompts[0].prompt.text!r} is not tokenized in a batch as it is alone"
            )
        run = functools.partial(edit.model, **batch)
        with tracer_for(edit, self._config, self._hooks) as tracer:
            _, rows = rows_during(run, tracer, positions)
        return stacked(rows, device), positions


def prompt_tokens(edit: Edit) -> list[PromptTokens]:
    """The edit's prompts as tokens.

    Raises:
        PositionError: there are none, or the subject's tokens cannot be found.
    """
    prompts = edit.prompts() if callable(edit.prompts) else edit.prompts
    if not prompts:
        raise PositionError("the edit has no rewriting prompts")
    return [tokenize(edit.tokenizer, prompt, edit.edited_token) for prompt in prompts]


def tracer_for(edit: Edit, config: SadrConfig, hooks: HookRelay) -> AttentionTracer:
    """A tracer on the attention modules of each layer that is restricted.

    Raises `UnsupportedModelError` where attention cannot be seen, here or on entering.
    """

    @torch.no_grad()
    def trial() -> None:
        cuda = {p.device for p in edit.model.parameters() if p.device.type == "cuda"}
        ids = torch.zeros((1, 1), dtype=torch.long, device=input_device(edit.model))
        try:
            # A model in training mode draws its dropout.
            with torch.random.fork_rng(cuda):
                edit.model(input_ids=ids)
        except Exception as error:
            raise UnsupportedModelError(
                f"{type(edit.model).__name__} has several ways to attend, and a forward of one "
                f"token, to see which it takes, failed: {error}"
            ) from error

    _refuse_compiled(edit.model)
    return AttentionTracer(attention_modules(edit, config, hooks), trial)


def input_device(model: nn.Module) -> torch.device:
    """Where a model takes its input; parameters that accelerate keeps elsewhere lie on meta."""
    execution = getattr(getattr(model, "_hf_hook", None), "execution_device", None)
    if execution is not None:
        return torch.device(execution)
    devices = (parameter.device for parameter in model.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def _refuse_compiled(model: nn.Module) -> None:
    # `torch.compile(module)` wraps a module, `module.compile()` marks it.
    for name, module in model.named_modules():
        marked = getattr(module, "_compiled_call_impl", None) is not None
        if marked or hasattr(module, "_orig_mod"):
            raise UnsupportedModelError(
                f"{name or 'the model'} ({type(module).__name__}) was compiled by torch.compile, "
                "and SADR cannot see into a compiled forward; edit the model first and compile it "
                "afterwards"
            )


def rows_during(
    run: Callable[[], Any], tracer: AttentionTracer, positions: Positions
) -> tuple[Any, list[Tensor]]:
    """What ``run`` returns, and the rows of each watched layer, [prompts, heads, tokens]."""
    output, seen = tracer.run(run)
    return output, [attention.rows(positions.prediction) for attention in seen]


def priced(
    hooks: HookRelay, config: SadrConfig, baseline: Tensor, current: Tensor, positions: Positions
) -> tuple[Tensor, Tensor]:
    """What the hooks say of rows: the penalty before γ, and which heads it restricts."""
    given = {
        "baseline": baseline,
        "current": current,
        "subject_index": positions.subject,
        "config": config,
    }
    with torch.no_grad():
        selected: Tensor = hooks.sadr_selected_heads(**given)
    penalty: Tensor = hooks.sadr_penalty(**given, selected=selected)
    return penalty, selected


def stacked(rows: Sequence[Tensor], device: torch.device) -> Tensor:
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
