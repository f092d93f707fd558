"""A model that was edited before, used instead of an editor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from ..evaluation import Editor, Record


class OtherModel(Editor):
    """An "editor" that writes the weights of another model into an editor's model.

    Args:
        editor: gives the unedited model.
        other: the same model, edited.

    Raises:
        ConfigError: the two models have different parameters, or all parameters are equal.
    """

    takes_batches = False

    def __init__(self, editor: Editor, other: nn.Module) -> None:
        self.model, self.tokenizer = editor.model, editor.tokenizer
        self.layer, self.layer_template = editor.layer, editor.layer_template
        own, others = dict(self.model.named_parameters()), dict(other.named_parameters())
        shapes = {name: weight.shape for name, weight in own.items()}
        if shapes != {name: weight.shape for name, weight in others.items()}:
            raise ConfigError(
                "edited model: its parameters are not those of the unedited model, in name or shape"
            )
        self._changed = {
            name: others[name].detach()
            for name, weight in own.items()
            if not torch.equal(weight, others[name].to(weight))
        }
        if not self._changed:
            raise ConfigError("edited model: it does not differ from the unedited one")
        self.weights = list(self._changed)

    @torch.no_grad()
    def edit(self, records: Sequence[Record], sadr: Mapping[str, Any] | None) -> None:
        """Write the other model's weights, for any records."""
        for name, weight in self._changed.items():
            self.model.get_parameter(name).copy_(weight)
