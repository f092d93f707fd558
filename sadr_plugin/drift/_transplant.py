"""Attention put into other forwards: one model's rows in the place of another's.

What changes with the rows alone, attention does; what does not, it does not.
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
    """Keeps the attention rows of some forwards, and runs the same forwards by rows kept.

    Use as a context manager; in the block, nnsight watches the model.

    Args:
        editor: its model's forwards are run; all its layers but the first are watched, since no
            edit reaches the attention of that.

    Raises:
        UnsupportedModelError: on entering, the model's attention cannot be seen.
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
        """The layers that are watched."""
        return self._tracer.layers

    def keeping(self, kept: list[list[Tensor]]) -> Callable[[Callable[[], Any]], Any]:
        """What runs a forward and adds its rows to ``kept``, a tensor for each layer."""

        def run(forward: Callable[[], Any]) -> Any:
            output, seen = self._tracer.run(forward)
            kept.append([attention.all_rows() for attention in seen])
            return output

        return run

    def by(
        self, kept: Sequence[list[Tensor]], heads: Mapping[int, Sequence[int] | None] | None = None
    ) -> Callable[[Callable[[], Any]], Any]:
        """What runs the forwards that gave ``kept`` once more, in their order, by those rows.

        Args:
            kept: see `keeping`.
            heads: see `AttentionTracer.run_with`.
        """
        rows: Iterator[list[Tensor]] = iter(kept)

        def run(forward: Callable[[], Any]) -> Any:
            return self._tracer.run_with(forward, next(rows), heads)

        return run
