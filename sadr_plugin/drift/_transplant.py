"""Run a model's forwards with the attention rows of another model.

Everything except the rows stays the same, so a change in the output is caused by attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..attention._layers import Watch
from ..attention._tracer import AttentionTracer, tracer_for
from ..evaluation import Editor
from ..plugins import plugin_manager


class Transplant:
    """Stores the attention rows of forwards, and runs the same forwards with stored rows.

    Use it as a context manager. nnsight watches the model inside the block.

    Args:
        editor: gives the model. All layers except the first are watched, because no edit of MLPs
            changes the attention of the first layer.

    Raises:
        UnsupportedModelError: here or on entering, if the plugin cannot read the model's attention.
    """

    def __init__(self, editor: Editor) -> None:
        watch = Watch(editor.model, editor.layer_template, edited=0)
        self._tracer: AttentionTracer = tracer_for(watch, plugin_manager().hook)

    def __enter__(self) -> Transplant:
        self._tracer.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._tracer.close()

    @property
    def layers(self) -> Sequence[int]:
        """The watched layers."""
        return self._tracer.layers

    def keeping(self, kept: list[list[Tensor]]) -> Callable[[Callable[[], Any]], Any]:
        """Return a function that runs a forward and appends its rows to ``kept``.

        The rows are a list with a tensor for each layer; see `Attention.all_rows`.
        """

        def run(forward: Callable[[], Any]) -> Any:
            output, seen = self._tracer.run(forward)
            kept.append([attention.all_rows() for attention in seen])
            return output

        return run

    def by(
        self, kept: Sequence[list[Tensor]], heads: Mapping[int, Sequence[int] | None] | None = None
    ) -> Callable[[Callable[[], Any]], Any]:
        """Return a function that runs the forwards of ``kept`` again, in order, with those rows.

        Args:
            kept: see `keeping`.
            heads: see `AttentionTracer.run_with`.
        """
        rows: Iterator[list[Tensor]] = iter(kept)

        def run(forward: Callable[[], Any]) -> Any:
            return self._tracer.run_with(forward, next(rows), heads)

        return run
