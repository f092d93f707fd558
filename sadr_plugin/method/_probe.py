"""Attention rows of an edit's prompts, and their drift, measured outside the loop."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..adapter import Edit
from ..attention._inputs import input_device, padded, padding_token
from ..attention._positions import locate, prompt_tokens
from ..attention._tracer import tracer_for
from ..config import SadrConfig
from ..errors import PositionError
from ..plugins import plugin_manager
from ..terms import Positions
from ._rows import penalise, stack_layers, watch_of


class DriftProbe:
    """Measures the drift of an edit from outside.

    It compares the rows before an edit with the rows after it. It works with any editor, with or
    without SADR.

    Args:
        edit: the prompts to measure, and the edited layer.
        config: which layers count, and how. None takes the paper's settings.

    Attributes:
        before: the rows when the probe was made, [layers, prompts, heads, tokens].
        positions: the positions of the prompts' tokens.
        layers: the indices of the watched layers, in the order of the rows.

    Raises:
        PositionError: the subject's tokens cannot be found.
        UnsupportedModelError: the plugin cannot read the model's attention.
    """

    layers: tuple[int, ...]

    def __init__(self, edit: Edit, config: SadrConfig | None = None) -> None:
        self._edit = edit
        self._hooks = plugin_manager().hook
        self._config = config or SadrConfig()
        self.before, self.positions = self._rows()

    def now(self) -> Tensor:
        """Return the rows of the model as it is now, in the shape of ``before``."""
        return self._rows()[0]

    def drift(self) -> float:
        """Return the drift penalty at γ = 1 since the probe was made."""
        penalty, _ = penalise(self._hooks, self._config, self.before, self.now(), self.positions)
        return penalty.item()

    def before_in(self, rows: Tensor, positions: Positions) -> Tensor:
        """Return ``before`` in the layout of another batch, longer or padded differently.

        Args:
            rows: rows of the other batch, [layers, prompts, heads, tokens].
            positions: the positions of the prompts in that batch.

        Raises:
            PositionError: a prompt's last token is another one there.
        """
        ours, theirs = (p.prediction - p.subject for p in (self.positions, positions))
        if not torch.equal(ours.cpu(), theirs.cpu()):
            raise PositionError(
                "a prompt of the edit ends with another token before its target than alone, so its "
                "attention cannot be compared with that before the edit; let the target begin with "
                "a space, or the prompt end with a whole word"
            )
        before = torch.zeros_like(rows)
        for prompt, (was, now) in enumerate(
            zip(self.positions.prediction.tolist(), positions.prediction.tolist(), strict=True)
        ):
            seen = min(was, now) + 1  # a row attends to no later position
            before[:, prompt, :, now + 1 - seen : now + 1] = self.before[
                :, prompt, :, was + 1 - seen : was + 1
            ].to(rows.device)
        return before

    @torch.no_grad()
    def _rows(self) -> tuple[Tensor, Positions]:
        edit = self._edit
        prompts = prompt_tokens(edit)
        device = input_device(edit.model)
        # Not padded by the tokenizer, which may have no padding token, or give no mask.
        known = [edit.tokenizer(tokens.prompt.text)["input_ids"] for tokens in prompts]
        side, token = edit.tokenizer.padding_side, padding_token(edit.model, edit.tokenizer)
        ids, mask, _ = padded(known, side, token)
        batch = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
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
