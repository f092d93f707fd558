"""Watching a model's attention with nnsight, and leaving nothing of it behind.

nnsight addresses single calls inside a module's forward. At ``attention_interface(…)``, or at
torch's own kernel, the inputs are read, so that no attention matrix is built; where a module
computes the weights itself, the output of its softmax.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .attention import Attention, AttentionCall, AttentionWeights
from .errors import UnsupportedModelError
from .layers import FUNCTIONS, calls, softmax_methods

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


@dataclass(frozen=True)
class _Operation:
    """A call that attention can be read at.

    Attributes:
        handle: nnsight's, of a call in the module's forward.
        kind: what is called, see `sadr_plugin.layers.FUNCTIONS`; None where ``handle`` calls a
            method of the module that computes the weights.
    """

    handle: Any
    kind: str | None

    def read(self) -> Attention:
        """What the call shows; to be asked inside a trace."""
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


def _calls_in(source: Any, kind: str) -> list[Any]:
    """nnsight's handles on the calls of a kind in a function it has taken apart.

    nnsight numbers its labels by what comes before in the function, which differs between releases
    of transformers; so a call is known by its name and its line.
    """
    lines = source.compiled.source.splitlines()
    return [
        operation
        for operation in source
        if re.search(rf"(^|_){FUNCTIONS[kind]}_\d+$", operation.name)
        and calls(kind, lines[operation.line - 1])
    ]


class AttentionTracer:
    """Sees the inputs of a model's attention calls while it is open.

    Use as a context manager. On leaving, every module is as it was: nnsight's controllers are
    taken out of the modules' ``__dict__``, and a wrapper the user had there before stays.

    Args:
        attention: the attention module of each layer to watch.
        trial: a cheap forward of the model. A module whose forward holds several calls that
            attention can be read at takes one way of several; a trial shows which.

    Raises:
        UnsupportedModelError: on entering, when a module makes no call that nnsight can address
            and attention can be read at.
    """

    def __init__(
        self, attention: Mapping[int, nn.Module], trial: Callable[[], Any] | None = None
    ) -> None:
        self.layers = tuple(attention)
        self._attention = dict(attention)
        self._trial = trial
        self._left: list[tuple[nn.Module, str, Any]] = []
        self._sight: Any = None
        self._operations: list[_Operation] = []
        self._chosen: dict[type[nn.Module], int] = {}

    def __enter__(self) -> AttentionTracer:
        nnsight = import_nnsight()
        before = [
            (module, dict(module.__dict__))
            for attention in self._attention.values()
            for module in attention.modules()
        ]
        try:
            self._sight = nnsight.NNsight(_Watched(self._attention))
            ways = {layer: self._ways(layer) for layer in self.layers}
            self._operations = [self._taken(layer, ways) for layer in self.layers]
        except BaseException:
            self._note_what_is_left(before)
            self.close()
            raise
        self._note_what_is_left(before)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, forward: Callable[[], Any]) -> tuple[Any, list[Attention]]:
        """Run ``forward`` and watch the attention calls it makes.

        Returns:
            What ``forward`` returned, and what was seen in each watched layer, in their order. An
            exception inside ``forward`` passes through.

        Raises:
            UnsupportedModelError: a watched module did not make its call.
        """
        try:
            return self._watch(forward, self._operations)
        except _NotCalled as error:
            classes = {type(module).__name__ for module in self._attention.values()}
            raise UnsupportedModelError(
                f"{', '.join(sorted(classes))}: one of the layers {self.layers[0]}-"
                f"{self.layers[-1]} did not attend as its source says; under this configuration "
                "it attends by another way, which SADR cannot see"
            ) from error

    def _watch(
        self, forward: Callable[[], Any], operations: Sequence[_Operation]
    ) -> tuple[Any, list[Attention]]:
        nnsight = import_nnsight()
        from nnsight.intervention.interleaver import OutOfOrderError

        output: Any = None
        seen: list[Attention] = []
        try:
            with self._sight.trace(forward) as tracer:
                seen = nnsight.save([operation.read() for operation in operations])
                output = nnsight.save(tracer.result)
        except OutOfOrderError as error:
            raise _NotCalled from error
        return output, seen

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

    def _ways(self, layer: int) -> list[_Operation]:
        """The calls in the layer's attention module that it may attend by, best first."""
        source = getattr(self._sight, f"layer_{layer}").source
        ways = [
            _Operation(operation, kind)
            for kind in FUNCTIONS
            for operation in _calls_in(source, kind)
        ]
        for method in softmax_methods(type(self._attention[layer])):
            label = re.compile(rf"self_{method}_\d+$")
            ways += [_Operation(found, None) for found in source if label.match(found.name)]
        return ways

    def _taken(self, layer: int, ways: Mapping[int, Sequence[_Operation]]) -> _Operation:
        """Of the ways of a layer the one it takes; layers of one class take the same."""
        module_class = type(self._attention[layer])
        if not ways[layer]:
            raise UnsupportedModelError(
                f"{module_class.__name__} (layer {layer}) makes no call that nnsight can see and "
                f"attention can be read at ({', '.join(FUNCTIONS.values())})"
            )
        if len(ways[layer]) > 1 and self._trial is not None and module_class not in self._chosen:
            self._chosen[module_class] = self._try(ways[layer], self._trial)
        return ways[layer][self._chosen.get(module_class, 0)]

    def _try(self, ways: Sequence[_Operation], trial: Callable[[], Any]) -> int:
        for index, way in enumerate(ways):
            with contextlib.suppress(_NotCalled):
                self._watch(trial, [way])
                return index
        return 0

    def _note_what_is_left(self, before: list[tuple[nn.Module, dict[str, Any]]]) -> None:
        """Remember what nnsight wrote into the modules' ``__dict__``, to undo just that."""
        for module, attributes in before:
            for name, value in module.__dict__.items():
                if name not in attributes:
                    self._left.append((module, name, _ABSENT))
                elif attributes[name] is not value:
                    self._left.append((module, name, attributes[name]))


class _NotCalled(Exception):
    """A watched call was not made."""


_ABSENT = object()
