"""Attaching editors while SADR is enabled: `enable`, `disable`, `enabled`."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import inspect
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any, cast

import wrapt

from .edit import EditPoint
from .errors import AttachmentError
from .hparams import KEY, HparamsPatch
from .plugins import edit_points, plugin_manager

_lock = threading.RLock()
_enabled = False
_blocks = 0
_watched: set[str] = set()
_warned: set[str] = set()
_functions: dict[str, AttachedFunction] = {}
_hparams: dict[type, HparamsPatch] = {}


def enable() -> None:
    """Attach every editor the installed adapters declare, now or when its toolkit is imported.

    Nothing is changed for an edit whose hparams do not ask for SADR. May be called any number
    of times, before or after a toolkit's import.
    """
    global _enabled
    with _lock:
        _enabled = True
        _attach()


def disable() -> None:
    """Give every toolkit its own functions and classes back. May be called any number of times.

    An edit that is under way goes on as it began.
    """
    global _enabled
    with _lock:
        _enabled = False
        _detach()


@contextlib.contextmanager
def enabled() -> Iterator[None]:
    """SADR enabled for the length of a ``with`` block, in all threads.

    Blocks may overlap; when the last one ends, all is as `enable` and `disable` had it.
    """
    global _blocks
    with _lock:
        _blocks += 1
        _attach()
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _active():
                _detach()


def attached() -> list[EditPoint]:
    """The editors attached at present: their toolkits are imported and SADR is enabled."""
    return [point for point in edit_points() if point.function in _functions]


Run = Callable[[EditPoint, FunctionType, inspect.BoundArguments, Any], Any]
"""What to do where hparams carry a flag: takes point, original, its arguments and the flag."""


def _active() -> bool:
    return _enabled or _blocks > 0


def _attach() -> None:
    for module in _modules_to_watch() - _watched - sys.modules.keys():
        # An import hook cannot be taken back; it looks whether SADR is enabled.
        _watched.add(module)
        wrapt.register_post_import_hook(_imported, module)
    _attach_what_is_imported()


def _detach() -> None:
    for function in _functions.values():
        function.detach()
    for patch in _hparams.values():
        patch.undo()
    _functions.clear()
    _hparams.clear()


class AttachedFunction:
    """A toolkit's function, replaced wherever the toolkit holds it.

    Args:
        point: the editor's declaration.
        module: where the function is defined.
        name: its name there.
        needs: the arguments the declaration says it takes.
        run: called in its place when SADR is enabled and the hparams carry a flag.

    Raises:
        AttachmentError: the function is not what the declaration says.
    """

    def __init__(
        self, point: EditPoint, module: ModuleType, name: str, needs: set[str], run: Run
    ) -> None:
        original = getattr(module, name, None)
        if not isinstance(original, FunctionType):
            raise AttachmentError(
                f"{point.editor}: {module.__name__}:{name} is not a plain function in the "
                "installed toolkit; its adapter fits another version"
            )
        missing = sorted(needs - inspect.signature(original).parameters.keys())
        if missing:
            raise AttachmentError(
                f"{point.editor}: {module.__name__}:{name} takes no argument {missing[0]!r}; "
                "its adapter fits another version"
            )
        self.original = original
        self.replacement = _where_flagged(point, original, run)
        self._package = module.__name__.partition(".")[0]
        _swap(self._package, self.original, self.replacement)

    def detach(self) -> None:
        """Give the toolkit its own function back."""
        _swap(self._package, self.replacement, self.original)


def _where_flagged(point: EditPoint, original: FunctionType, run: Run) -> FunctionType:
    """``original``, but ``run`` where SADR is enabled and the hparams ask for it."""

    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = inspect.signature(original).bind(*args, **kwargs)
        except TypeError:
            return original(*args, **kwargs)  # the toolkit's own complaint
        hparams = bound.arguments.get(point.hparams_argument)
        value = getattr(hparams, KEY, None)
        if not _active() or value is None or value is False:
            return original(*args, **kwargs)
        return run(point, original, bound, value)

    return cast(FunctionType, function)


def _run_with_penalty(
    point: EditPoint, original: FunctionType, bound: inspect.BoundArguments, value: Any
) -> Any:
    """The function, with the drift penalty in its loop's loss."""
    # Late: these bring in nnsight's needs and pydantic, which an unflagged edit can do without.
    from .config import SadrConfig
    from .drift import DriftSession
    from .loop import with_loss_term

    config = SadrConfig.parse(value)
    assert config is not None
    bound.apply_defaults()
    if config.num_grad_steps is not None:
        hparams = copy.copy(bound.arguments[point.hparams_argument])
        setattr(hparams, point.steps_attribute, config.num_grad_steps)
        bound.arguments[point.hparams_argument] = hparams
    edit = point.read(bound.arguments)
    session = DriftSession(point.editor, edit, config, point.gamma, plugin_manager().hook)
    loop = with_loss_term(original, session.add_penalty, session.finished)
    with session:
        return loop(*bound.args, **bound.kwargs)


def _run_with_own_cache(
    point: EditPoint, original: FunctionType, bound: inspect.BoundArguments, value: Any
) -> Any:
    """The function, keeping its vectors in files that only edits of the same settings share.

    A toolkit names such files by its own settings alone; a vector found with SADR would be
    taken for one found without, or at another γ.
    """
    from .config import SadrConfig

    config = SadrConfig.parse(value)
    assert config is not None
    bound.apply_defaults()
    template = bound.arguments[point.cache_argument]
    if template is not None:
        settings = config.model_copy(update={"gamma": config.weight(point.gamma)})
        digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:12]
        stem, suffix = os.path.splitext(str(template))
        bound.arguments[point.cache_argument] = f"{stem}.sadr-{digest}{suffix}"
    return original(*bound.args, **bound.kwargs)


def _swap(package: str, old: object, new: object) -> None:
    """Replace ``old`` by ``new`` in every imported module of ``package`` that holds it."""
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(package + "."):
            for attribute, value in list(vars(module).items()):
                if value is old:
                    setattr(module, attribute, new)


def _modules_to_watch() -> set[str]:
    bases = plugin_manager().hook.sadr_hparams_base()
    declared = (
        target
        for point in edit_points()
        for target in (point.function, point.hparams, point.cache)
        if target is not None
    )
    targets = [*bases, *declared]
    modules = {target.partition(":")[0] for target in targets}
    # Only when the whole toolkit is imported do all of its hparams classes exist.
    return modules | {base.partition(".")[0] for base in bases}


def _imported(module: ModuleType) -> None:
    with _lock:
        if _active():
            _attach_what_is_imported(just_now=module)


def _attach_what_is_imported(just_now: ModuleType | None = None) -> None:
    # A toolkit that an adapter does not fit must still be importable.
    for point in edit_points():
        try:
            _attach_hparams(point, just_now)
            loop = {point.hparams_argument}
            _attach_function(point, point.function, loop, _run_with_penalty, just_now)
            if point.cache is not None:
                cache = {point.hparams_argument, point.cache_argument}
                _attach_function(point, point.cache, cache, _run_with_own_cache, just_now)
        except AttachmentError as error:
            _refuse_flag(point, error, just_now)
    for base in plugin_manager().hook.sadr_hparams_base():
        _refuse_elsewhere(base, just_now)


def _refuse_flag(point: EditPoint, error: AttachmentError, just_now: ModuleType | None) -> None:
    """An editor that cannot be attached must not take a flag that would do nothing."""
    if str(error) not in _warned:
        _warned.add(str(error))
        warnings.warn(f"SADR is not attached to {error}", stacklevel=2)
    hparams = _class(point.hparams, just_now)
    if hparams is not None:
        if hparams in _hparams:
            _hparams[hparams].undo()
        reason = str(error)
        _hparams[hparams] = HparamsPatch(hparams, lambda _: f"sadr: not attached to {reason}")


def _find(target: str, just_now: ModuleType | None) -> tuple[ModuleType, str] | None:
    """``"module:name"`` as the module and the name, or None until the module is imported."""
    module_name, _, name = target.partition(":")
    module = sys.modules.get(module_name)
    spec = getattr(module, "__spec__", None)
    if module is None or (module is not just_now and getattr(spec, "_initializing", False)):
        return None
    return module, name


def _attach_function(
    point: EditPoint, target: str, needs: set[str], run: Run, just_now: ModuleType | None
) -> None:
    found = _find(target, just_now)
    if found is not None and target not in _functions:
        _functions[target] = AttachedFunction(point, *found, needs, run)


def _class(target: str, just_now: ModuleType | None) -> type | None:
    """The class ``"module:Class"``, or None while it is not imported or where there is none."""
    found = _find(target, just_now)
    value = getattr(*found, None) if found is not None else None
    return value if isinstance(value, type) else None


def _attach_hparams(point: EditPoint, just_now: ModuleType | None) -> None:
    if _find(point.hparams, just_now) is None:
        return
    hparams = _class(point.hparams, just_now)
    if hparams is None:
        raise AttachmentError(f"{point.editor}: there is no class {point.hparams}")
    for accepting in (hparams, *_subclasses(hparams)):
        if accepting not in _hparams:
            _hparams[accepting] = HparamsPatch(accepting)


def _refuse_elsewhere(base: str, just_now: ModuleType | None) -> None:
    """Have the hparams classes of editors without an attachment refuse the flag.

    The base's own flag speaks for classes that do not exist yet.
    """
    if _find(base, just_now) is None:
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
        if not names & declared and hparams not in _hparams:
            _hparams[hparams] = HparamsPatch(hparams, _refusal)


def _refusal(hparams: type) -> str:
    editors = ", ".join(sorted({point.editor for point in edit_points()}))
    return (
        f"sadr: no editor is attached for {hparams.__name__}; SADR works with {editors}. "
        "Remove the key"
    )


def _subclasses(base: type) -> Iterator[type]:
    subclasses: list[type] = base.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from _subclasses(subclass)
