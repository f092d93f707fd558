"""An edit's attention rows, measured from outside, and what the hooks say of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from pluggy import HookRelay
from torch import Tensor, nn

from ..adapter import Edit
from ..attention._layers import Watch
from ..attention._positions import Positions, locate, prompt_tokens
from ..attention._tracer import input_device, tracer_for
from ..config import SadrConfig
from ..errors import PositionError
from ..plugins import plugin_manager


class DriftProbe:
    """An edit's drift, measured from outside.

    Rows before an edit are compared with rows after it, on the model as it then stands,
    whichever editor changed it and with or without SADR.

    Args:
        edit: the prompts to look at, and the layer after which to look.
        config: which layers count and how; the paper's settings if None.

    Attributes:
        before: the rows when the probe was made, [layers, prompts, heads, tokens].
        positions: where the prompts lie among the tokens.
        layers: the indices of the layers that are watched, in the order of the rows.

    Raises:
        PositionError: the subject's tokens cannot be found.
        UnsupportedModelError: the model's attention cannot be seen.
    """

    layers: tuple[int, ...]

    def __init__(self, edit: Edit, config: SadrConfig | None = None) -> None:
        self._edit = edit
        self._hooks = plugin_manager().hook
        self._config = config or SadrConfig()
        self.before, self.positions = self._rows()

    def now(self) -> Tensor:
        """The rows of the model as it stands, as `before` has them."""
        return self._rows()[0]

    def drift(self) -> float:
        """The drift penalty at γ = 1 since the probe was made."""
        penalty, _ = penalise(self._hooks, self._config, self.before, self.now(), self.positions)
        return penalty.item()

    def before_in(self, rows: Tensor, positions: Positions) -> Tensor:
        """The rows from before, laid out as ``rows`` of a longer or otherwise padded batch."""
        before = torch.zeros_like(rows)
        for prompt, (was, now) in enumerate(
            zip(self.positions.prediction.tolist(), positions.prediction.tolist(), strict=True)
        ):
            seen = min(was, now) + 1  # no row attends beyond its own position
            before[:, prompt, :, now + 1 - seen : now + 1] = self.before[
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
        with tracer_for(watch_of(edit, self._config), self._hooks) as tracer:
            _, rows = tracer.run_with_rows(run, positions.prediction)
            self.layers = tracer.layers
        return stack_layers(rows, device), positions


def watch_of(edit: Edit, config: SadrConfig) -> Watch:
    """Where an edit's attention is watched."""
    return Watch(edit.model, edit.layer_template, edit.layer, config.layers)


def penalise(
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


def stack_layers(rows: Sequence[Tensor], device: torch.device) -> Tensor:
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
