"""All that the plugin uses of nnsight beyond its documented interface, in one place.

A release that moves one of these names breaks this module alone, and
``tests/test_nnsight.py`` says which.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_importing = threading.Lock()


class NotCalled(Exception):
    """A call that was to be seen was not made."""


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


def operations(source: Any, name: str) -> Iterator[Any]:
    """nnsight's handles on the calls of ``name`` in a function it has taken apart.

    nnsight labels a call by its name and a number; the number is what comes before it in the
    function, which differs between releases of transformers.
    """
    label = re.compile(rf"(^|_){name}_\d+$")
    return (operation for operation in source if label.search(operation.name))


def line_of(source: Any, operation: Any) -> str:
    """The line of code that an operation of ``source`` stands in."""
    lines: list[str] = source.compiled.source.splitlines()
    number: int = operation.line
    return lines[number - 1]


def observe(
    wrapped: Any, forward: Callable[[], Any], reads: Sequence[Callable[[], Any]]
) -> tuple[Any, list[Any]]:
    """Run ``forward`` under a trace of ``wrapped``, an `nnsight.NNsight`.

    Args:
        wrapped: its root module is called with ``forward`` and has to call it.
        forward: what is run.
        reads: asked inside the trace, in the order of the calls they look at.

    Returns:
        What ``forward`` returned, and what each of ``reads`` did.

    Raises:
        NotCalled: one of them looked at a call that was not made.
    """
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
