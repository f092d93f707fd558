"""Attach editors while SADR is enabled: `enable`, `disable`, `enabled`."""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FunctionType, ModuleType

from .._signatures import signature_of
from ..adapter import EditPoint
from ..errors import AttachmentError
from ..plugins import edit_points, editor_names, load_again, plugin_manager
from ._functions import (
    AttachedFunction,
    Run,
    cache_arguments,
    loop_arguments,
    run_with_own_cache,
    run_with_penalty,
)
from ._hparams_class import HparamsPatch, Refusal, drops_flag, is_patched
from ._imports import when_imported
from ._names import Name
from ._strangers import is_declared_one, keeps_no_files

_lock = threading.RLock()
"""Whoever takes it has made the plugin manager before, whose lock comes first."""
_enabled = False
_blocks = 0
_watched: set[str] = set()
_warned: set[str] = set()
_functions: dict[str, AttachedFunction] = {}
_hparams: dict[type, HparamsPatch] = {}


def enable() -> None:
    """Attach every editor that the installed adapters declare.

    An editor is attached now, or when its toolkit is imported. Edits whose hparams do not ask for
    SADR do not change. The function may be called any number of times, before or after the import
    of a toolkit.
    """
    global _enabled
    load_again()
    with _lock:
        _enabled = True
        _attach()


def disable() -> None:
    """Restore every toolkit's own functions and classes.

    A running edit continues as it began. Inside a block of `enabled`, it takes effect when the
    block ends. The function may be called any number of times.
    """
    global _enabled
    with _lock:
        _enabled = False
        if not _active():
            _detach()


@contextlib.contextmanager
def enabled() -> Iterator[None]:
    """Enable SADR for the length of a ``with`` block, in all threads.

    Blocks may overlap. When the last one ends, the last call of `enable` or `disable` is in force
    again.
    """
    global _blocks
    with _lock:
        _blocks += 1
    try:
        plugin_manager()
        with _lock:
            _attach()
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _active():
                _detach()


def refresh() -> None:
    """Attach the editors of adapters that were loaded after SADR was enabled."""
    if not _active():
        return
    plugin_manager()
    with _lock:
        if _active():
            _attach()


def attached() -> list[EditPoint]:
    """Return the editors that are attached now: SADR is enabled and their toolkits are imported."""
    return [point for point in edit_points() if point.function in _functions]


def _active() -> bool:
    return _enabled or _blocks > 0


def _attach() -> None:
    for module in _modules_to_watch() - _watched:
        # An import hook cannot be removed. It checks whether SADR is enabled.
        if when_imported(module, _imported):
            _watched.add(module)
    _attach_what_is_imported()


def _detach() -> None:
    for function in _functions.values():
        function.detach()
    for patch in _hparams.values():
        patch.undo()
    _functions.clear()
    _hparams.clear()


def _modules_to_watch() -> set[str]:
    bases = plugin_manager().hook.sadr_hparams_base()
    declared = (
        target
        for point in edit_points()
        for target in (point.function, point.hparams, *point.caches)
    )
    targets = [*bases, *declared]
    modules = {Name.parse(target).module for target in targets}
    # All hparams classes exist only once the whole toolkit is imported.
    return modules | {Name.parse(base).toolkit for base in bases}


def _imported(module: ModuleType) -> None:
    if not _active():
        return
    plugin_manager()
    with _lock:
        if _active():
            _attach_what_is_imported(just_now=module)


def _attach_what_is_imported(just_now: ModuleType | None = None) -> None:
    # If an adapter does not fit its toolkit, the toolkit must still be importable.
    for point in edit_points():
        if point.parameters is not None and not is_declared_one(point, just_now):
            continue
        try:
            _attach_hparams(point, just_now)
            loop = loop_arguments(point)
            _attach_function(point, point.function, loop, run_with_penalty, just_now)
            for target in point.caches:
                kept = Name.parse(target).imported(just_now)
                if isinstance(kept, FunctionType) and keeps_no_files(
                    point, signature_of(kept).parameters
                ):
                    continue
                cache = cache_arguments(point)
                _attach_function(point, target, cache, run_with_own_cache, just_now)
        except AttachmentError as error:
            _refuse_flag(point, error, just_now)
    for base in plugin_manager().hook.sadr_hparams_base():
        _refuse_elsewhere(base, just_now)


def _refuse_flag(point: EditPoint, error: AttachmentError, just_now: ModuleType | None) -> None:
    """Make the hparams of an editor that cannot be attached refuse the flag.

    Otherwise the flag would be accepted and do nothing.
    """
    if str(error) not in _warned:
        _warned.add(str(error))
        warnings.warn(f"SADR is not attached to {error}", stacklevel=2)
    hparams = _class(point.hparams, just_now)
    if hparams is None:
        return
    reason = str(error)
    with contextlib.suppress(TypeError):  # a class that cannot be changed refuses any flag itself
        for refusing in (hparams, *_subclasses(hparams)):
            _patch(refusing, lambda _: f"sadr: not attached to {reason}")


def _attach_function(
    point: EditPoint, target: str, needs: set[str], run: Run, just_now: ModuleType | None
) -> None:
    name = Name.parse(target)
    home = name.home(just_now)
    if home is not None and target not in _functions:
        _functions[target] = AttachedFunction(point, home, name.name, needs, run, _active)


def _class(target: str, just_now: ModuleType | None) -> type | None:
    """Return the class ``"module:Class"``; None if it is not imported or does not exist."""
    value = Name.parse(target).imported(just_now)
    return value if isinstance(value, type) else None


def _attach_hparams(point: EditPoint, just_now: ModuleType | None) -> None:
    if Name.parse(point.hparams).home(just_now) is None:
        return
    hparams = _class(point.hparams, just_now)
    if hparams is None:
        raise AttachmentError(f"{point.editor}: there is no class {point.hparams}")
    module = Name.parse(point.function).module
    if module not in sys.modules and not _exists(point.function):
        # The flag would be accepted, and no edit would have SADR.
        raise AttachmentError(f"{point.editor}: there is no module {module} for its function")
    if drops_flag(hparams):
        raise AttachmentError(
            f"{point.editor}: {hparams.__name__} is a pydantic model without an __init__ of its "
            "own, and pydantic drops the flag; use a dataclass"
        )
    for accepting in (hparams, *_subclasses(hparams)):
        # While SADR was enabled without this adapter, the class was made to refuse the flag.
        refuses = accepting in _hparams and _hparams[accepting].refusal is _refusal
        if refuses or not is_patched(accepting):
            try:
                _patch(accepting)
            except TypeError as error:
                raise AttachmentError(
                    f"{point.editor}: {accepting.__name__} cannot take the flag; use a class of "
                    "your own"
                ) from error


def _exists(target: str) -> bool:
    try:
        return Name.parse(target).exists()
    except ValueError:  # a toolkit without files, made in memory
        return True


def _refuse_elsewhere(base: str, just_now: ModuleType | None) -> None:
    """Make the hparams classes of editors that are not attached refuse the flag.

    The flag on the base class covers subclasses that are defined later.
    """
    if Name.parse(base).home(just_now) is None:
        return
    base_class = _class(base, just_now)
    if base_class is None:
        if base not in _warned:
            _warned.add(base)
            warnings.warn(f"SADR: there is no class {base}", stacklevel=2)
        return
    declared = {point.hparams for point in edit_points()}
    for hparams in (base_class, *_subclasses(base_class)):
        names = {f"{cls.__module__}:{cls.__qualname__}" for cls in hparams.__mro__}
        if not names & declared and not is_patched(hparams):
            _patch(hparams, _refusal)


def _patch(hparams: type, refusal: Refusal | None = None) -> None:
    """Make a class accept or refuse the flag, whatever it did before."""
    if hparams in _hparams:
        _hparams.pop(hparams).undo()
    _hparams[hparams] = HparamsPatch(hparams, refusal)


def _refusal(hparams: type) -> str:
    return (
        f"sadr: no editor is attached for {hparams.__name__}; SADR works with {editor_names()}. "
        "Remove the key"
    )


def _subclasses(base: type) -> Iterator[type]:
    subclasses: list[type] = base.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)
