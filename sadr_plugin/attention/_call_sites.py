"""The calls in a module's forward at which attention can be read, or exchanged, with nnsight.

At ``attention_interface(…)``, or at torch's own kernel, the plugin reads the inputs, so no
attention matrix is built. If a module computes the weights itself, the plugin reads the output of
its softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ._modules import FUNCTIONS, calls, softmax_methods
from ._nnsight import line_of, operations
from ._rows import Attention, AttentionCall, AttentionWeights


@dataclass(frozen=True)
class CallSite:
    """A call at which attention can be read.

    Attributes:
        handle: nnsight's handle of a call in the module's forward.
        kind: what is called, a key of `FUNCTIONS`. None if ``handle`` calls a method of the module
            that computes the weights.
    """

    handle: Any
    kind: str | None

    def read(self) -> Attention:
        """Return what the call shows. Use it inside a trace."""
        if self.kind == "interface":
            return AttentionCall.from_inputs(*self.handle.inputs)
        if self.kind == "kernel":
            return AttentionCall.from_kernel(*self.handle.inputs)
        if self.kind == "softmax":
            return AttentionWeights(self.handle.output)
        inner = _calls_in(self.handle.source, "softmax")
        if len(inner) != 1:
            raise UnsupportedModelError(
                f"{self.handle.name} computes its softmax in {len(inner)} places that nnsight can "
                "see; one is expected"
            )
        return AttentionWeights(inner[0].output)

    def attend_by(self, rows: Tensor, heads: Sequence[int] | None) -> None:
        """Replace the attention rows of the call. Use it inside a trace.

        Args:
            rows: [batch, heads, tokens, tokens], as `Attention.all_rows` returns them.
            heads: the heads whose rows are replaced; None for all.
        """
        if self.kind in _VALUE:
            place, name = _VALUE[self.kind]
            args, kwargs = self.handle.inputs
            value = kwargs[name] if name in kwargs else args[place]
            output = self.handle.output
            value = value[:, :, : rows.shape[-1]]  # behind them, a buffer may be longer
            attended = rows.to(value.dtype) @ _for_heads(value, rows.shape[1])
            if self.kind == "kernel":
                self.handle.output = _in_heads(output, attended, heads, dim=1)
            else:  # (attention output [batch, tokens, heads, head size], weights)
                attended = attended.transpose(1, 2)
                self.handle.output = (_in_heads(output[0], attended, heads, dim=2), *output[1:])
            return
        softmax = self.handle
        if self.kind is None:
            (softmax,) = _calls_in(self.handle.source, "softmax")
        weights = softmax.output
        softmax.output = _in_heads(weights, rows.to(weights.dtype), heads, dim=1)


_VALUE = {"interface": (3, "value"), "kernel": (2, "value")}
"""The place of the value tensor in a call of each kind: argument number and name."""


def _for_heads(value: Tensor, heads: int) -> Tensor:
    """Repeat ``value`` [batch, key heads, tokens, head size] so that each head has its own."""
    return value.repeat_interleave(heads // value.shape[1], dim=1)


def _in_heads(old: Tensor, new: Tensor, heads: Sequence[int] | None, dim: int) -> Tensor:
    """Return ``old`` with the entries of ``new`` for some heads. The heads lie along ``dim``."""
    index = torch.arange(old.shape[dim]) if heads is None else torch.tensor(heads)
    index = index.to(old.device)
    return old.index_copy(dim, index, new.index_select(dim, index))


def _calls_in(source: Any, kind: str) -> list[Any]:
    """Return nnsight's handles of the calls of a kind, found by name and source line."""
    return [
        operation
        for operation in operations(source, FUNCTIONS[kind])
        if calls(kind, line_of(source, operation))
    ]


def call_sites(source: Any, module_class: type[nn.Module]) -> list[CallSite]:
    """Return the calls at which a module may attend, best first.

    Args:
        source: nnsight's view of the module's forward.
        module_class: the class of the module.
    """
    sites = [CallSite(call, kind) for kind in FUNCTIONS for call in _calls_in(source, kind)]
    for method in softmax_methods(module_class):
        sites += [CallSite(call, None) for call in operations(source, f"self_{method}")]
    return sites
