"""Watching a model's attention with nnsight, and leaving nothing of it behind.

nnsight addresses the call ``attention_interface(…)`` inside a module's forward, so its inputs
are read under any attention implementation and no attention matrix is built.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .attention import INTERFACE_CALL, AttentionCall
from .errors import UnsupportedModelError

_importing = threading.Lock()


def import_nnsight() -> Any:
    """nnsight, imported late and without the ``save`` it mounts on every object.

    The mount turns any dataclass field called ``save`` into one with a default, which breaks
    EasyEdit's own import. Where nnsight was imported before by someone else its mount is
    theirs and stays.
    """
    with _importing:
        if "nnsight" in sys.modules:
            import nnsight

            return nnsight
        mounted_before = hasattr(object, "save")
        import nnsight

        if not mounted_before and hasattr(object, "save"):
            from nnsight._c import unmount

            unmount("save")
        return nnsight


class _Watched(nn.Module):
    """A root for nnsight that holds just the attention modules and runs any forward.

    Wrapping the whole model would put nnsight's controller on every one of its modules; this
    way only what is watched is touched.
    """

    def __init__(self, attention: Mapping[int, nn.Module]) -> None:
        super().__init__()
        for layer, module in attention.items():
            self.add_module(f"layer_{layer}", module)

    def forward(self, run: Callable[[], Any]) -> Any:
        return run()


class AttentionTracer:
    """Sees the inputs of a model's attention calls while it is open.

    Use as a context manager. On leaving, every module is as it was: nnsight's controllers are
    taken out of the modules' ``__dict__``, and a wrapper the user had there before stays.

    Args:
        attention: the attention module of each layer to watch.

    Raises:
        UnsupportedModelError: on entering, when a module makes no call to an attention
            interface that nnsight can address.
    """

    def __init__(self, attention: Mapping[int, nn.Module]) -> None:
        self.layers = tuple(attention)
        self._attention = dict(attention)
        self._left: list[tuple[nn.Module, str, Any]] = []
        self._sight: Any = None
        self._operations: list[Any] = []

    def __enter__(self) -> AttentionTracer:
        nnsight = import_nnsight()
        before = [
            (module, dict(module.__dict__))
            for attention in self._attention.values()
            for module in attention.modules()
        ]
        try:
            self._sight = nnsight.NNsight(_Watched(self._attention))
            self._operations = [self._operation(layer) for layer in self.layers]
        except BaseException:
            self._note_what_is_left(before)
            self.close()
            raise
        self._note_what_is_left(before)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, forward: Callable[[], Any]) -> tuple[Any, list[AttentionCall]]:
        """Run ``forward`` and watch the attention calls it makes.

        Returns:
            What ``forward`` returned, and one call for each watched layer, in their order. An
            exception inside ``forward`` passes through.

        Raises:
            UnsupportedModelError: a watched module did not make its call.
        """
        nnsight = import_nnsight()
        from nnsight.intervention.interleaver import OutOfOrderError

        output: Any = None
        inputs: list[Any] = []
        try:
            with self._sight.trace(forward) as tracer:
                inputs = nnsight.save([operation.inputs for operation in self._operations])
                output = nnsight.save(tracer.result)
        except OutOfOrderError as error:
            classes = {type(module).__name__ for module in self._attention.values()}
            raise UnsupportedModelError(
                f"{', '.join(sorted(classes))} did not call its attention interface in a forward; "
                "under this configuration it attends by another way, which SADR cannot see"
            ) from error
        return output, [AttentionCall.from_inputs(*call) for call in inputs]

    def close(self) -> None:
        """Take nnsight off the modules. May be called more than once."""
        for module, name, previous in self._left:
            if previous is _ABSENT:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = previous
        self._left = []
        self._sight = None
        self._operations = []

    def _operation(self, layer: int) -> Any:
        """The nnsight handle on the layer's attention call.

        Its label is numbered by what comes before it in the forward and differs between
        releases of transformers, so the call is found by its source line.
        """
        source = getattr(self._sight, f"layer_{layer}").source
        lines = source.compiled.source.splitlines()
        found = [
            operation
            for operation in source
            if operation.name.startswith("attention_interface_")
            and INTERFACE_CALL.search(lines[operation.line - 1])
        ]
        if len(found) != 1:
            raise UnsupportedModelError(
                f"{type(self._attention[layer]).__name__} (layer {layer}) calls an attention "
                f"interface {len(found)} times where nnsight can see it; once is expected"
            )
        return found[0]

    def _note_what_is_left(self, before: list[tuple[nn.Module, dict[str, Any]]]) -> None:
        """Remember what nnsight wrote into the modules' ``__dict__``, to undo just that."""
        for module, attributes in before:
            for name, value in module.__dict__.items():
                if name not in attributes:
                    self._left.append((module, name, _ABSENT))
                elif attributes[name] is not value:
                    self._left.append((module, name, attributes[name]))


_ABSENT = object()
