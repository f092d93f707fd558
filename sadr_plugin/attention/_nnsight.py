"""All use of nnsight beyond its documented interface, in one place.

A release of nnsight that moves one of these names breaks only this module.
``tests/test_nnsight.py`` shows which name.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

_importing = threading.Lock()


class NotCalled(Exception):
    """An expected call was not made."""


def import_nnsight() -> Any:
    """Import nnsight without what it changes in the process.

    nnsight adds a method ``save`` to every object. With it, a dataclass field called ``save`` gets
    a default value, which breaks EasyEdit's own import. It also replaces `torch.Tensor.backward`.
    The replacement takes any ``with`` statement around a call for a trace of its own, so a user's
    training step would get no gradient. The plugin needs neither.

    If other code imported nnsight before, both belong to that code and stay.

    Returns:
        The module ``nnsight``.
    """
    with _importing:
        if "nnsight" in sys.modules:
            import nnsight

            return nnsight
        mounted_before, backward = hasattr(object, "save"), torch.Tensor.backward
        try:
            import nnsight
        finally:  # after an interrupt, too
            torch.Tensor.backward = backward  # type: ignore[method-assign]
            if not mounted_before and hasattr(object, "save"):
                from nnsight._c import unmount

                unmount("save")
        return nnsight


class Confined:
    """Lets nnsight see the forwards of one thread only, while a tracer is open.

    nnsight puts an object in the place of a module's forward. A forward of another thread, in the
    middle of a trace, would reach it too, and break both. So the object gets a class that runs the
    module's own forward in other threads.
    """

    def __init__(self) -> None:
        self._changed: list[tuple[Any, type]] = []

    def begin(self, modules: Iterable[nn.Module]) -> None:
        """Confine nnsight on modules that it has wrapped to this thread."""
        classes: dict[type, type] = {}
        for module in modules:
            found = vars(module).get("forward")
            kind = type(found)
            # The outer one of two tracers of this thread has done it already.
            if STATE in vars(module) and _thread_of(found) is None:
                self._changed.append((found, kind))
                if kind not in classes:
                    classes[kind] = _confined(kind)
                found.__class__ = classes[kind]

    def end(self) -> None:
        """Give nnsight's objects their own class back. It may be called more than once."""
        for controller, kind in self._changed:
            controller.__class__ = kind
        self._changed = []


def is_read_elsewhere(module: nn.Module) -> bool:
    """Whether another thread reads what a module does."""
    return _thread_of(vars(module).get("forward")) not in (None, threading.get_ident())


STATE = "__nnsight__"
"""The attribute under which nnsight keeps a module's own forward."""


def _thread_of(controller: Any) -> int | None:
    thread: int | None = getattr(type(controller), "_sadr_thread", None)
    return thread


def _confined(kind: Any) -> type:
    thread = threading.get_ident()

    class Here(kind):  # type: ignore[misc]
        _sadr_thread = thread

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == thread:
                return super().__call__(*args, **kwargs)
            return self.state.original(self.module_ref(), *args, **kwargs)

    return Here


def operations(source: Any, name: str) -> Iterator[Any]:
    """Yield nnsight's handles of the calls of ``name`` in a function that it has analysed.

    nnsight labels a call by its name and a number. The number depends on the code before the call,
    which differs between releases of transformers.
    """
    label = re.compile(rf"(^|_){name}_\d+$")
    return (operation for operation in source if label.search(operation.name))


def line_of(source: Any, operation: Any) -> str:
    """Return the source line of an operation of ``source``."""
    lines: list[str] = source.compiled.source.splitlines()
    number: int = operation.line
    return lines[number - 1]


def observe(
    wrapped: Any, forward: Callable[[], Any], reads: Sequence[Callable[[], Any]]
) -> tuple[Any, list[Any]]:
    """Run ``forward`` under a trace of ``wrapped``, an `nnsight.NNsight`.

    nnsight removes the process's trace function, which a debugger or a coverage tool has set. Here
    it is back during ``forward``, and afterwards.

    Args:
        wrapped: its root module is called with ``forward`` and has to call it.
        forward: the function to run.
        reads: functions that are called inside the trace, in the order of the calls they read.

    Returns:
        The result of ``forward``, and the results of ``reads``.

    Raises:
        NotCalled: one of ``reads`` expected a call that was not made.
    """
    traced_by = sys.gettrace()
    if traced_by is None:
        return _observed(wrapped, forward, reads)

    def run() -> Any:
        sys.settrace(traced_by)
        try:
            return forward()
        finally:
            sys.settrace(None)

    # A trace function counts calls and returns. It has to see both of a frame, or neither.
    sys.settrace(None)
    try:
        return _observed(wrapped, run, reads)
    finally:
        sys.settrace(traced_by)


def _observed(
    wrapped: Any, forward: Callable[[], Any], reads: Sequence[Callable[[], Any]]
) -> tuple[Any, list[Any]]:
    nnsight = import_nnsight()
    from nnsight.intervention.interleaver import OutOfOrderError

    output: Any = None
    seen: list[Any] = []
    try:
        with wrapped.trace(forward) as tracer:
            seen = nnsight.save([read() for read in reads])
            output = nnsight.save(tracer.result)
    except OutOfOrderError as error:
        raise NotCalled from error
    return output, seen
