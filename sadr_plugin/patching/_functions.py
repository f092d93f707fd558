"""Replace a function of a toolkit in all modules that hold it, and run edits with SADR."""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import json
import marshal
import os
import sys
import warnings
from collections.abc import Callable, Iterable, MutableMapping
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, cast

from .._signatures import signature_of
from .._version import plugin_version
from ..adapter import EditPoint
from ..errors import AttachmentError, ConfigError
from ..plugins import plugin_manager
from ._hparams_class import KEY, takes_flag

if TYPE_CHECKING:
    from ..config import SadrConfig
    from ..method._session import EditSession

Run = Callable[[EditPoint, FunctionType, inspect.BoundArguments, Any], Any]
"""A function that runs a call with a flag: takes point, original, bound arguments and flag."""


class AttachedFunction:
    """A function of a toolkit, replaced in all modules of the toolkit that hold it.

    Args:
        point: the editor's declaration.
        home: the module that defines the function.
        name: its name there.
        needs: the arguments that it takes according to the declaration.
        run: called in its place if SADR is enabled and the hparams carry a flag.
        active: whether SADR is enabled. It is asked at each call, because callers may keep the
            replacement after `disable`.

    Raises:
        AttachmentError: the function does not fit the declaration.
    """

    def __init__(
        self,
        point: EditPoint,
        home: ModuleType,
        name: str,
        needs: set[str],
        run: Run,
        active: Callable[[], bool],
    ) -> None:
        original = getattr(home, name, None)
        where = f"{point.editor}: {home.__name__}:{name}"
        if not isinstance(original, FunctionType):
            raise AttachmentError(
                f"{where} is not a function of a module in the installed toolkit; correct the "
                "adapter's declaration, or install the version that it is made for"
            )
        refuse_missing_arguments(where, needs, signature_of(original).parameters)
        self.original = original
        self.replacement = _dispatching(point, where, original, run, active)
        self._package = home.__name__.partition(".")[0]
        _swap(self._package, self.original, self.replacement)

    def detach(self) -> None:
        """Restore the toolkit's own function."""
        _swap(self._package, self.replacement, self.original)


def refuse_missing_arguments(where: str, needs: Iterable[str], takes: Iterable[str]) -> None:
    """Check that a function takes the arguments in its declaration.

    Raises:
        AttachmentError: an argument is missing.
    """
    missing = sorted(set(needs) - set(takes))
    if missing:
        raise AttachmentError(
            f"{where} takes no argument {missing[0]!r}; correct the adapter's declaration, "
            "or install the version that it is made for"
        )


def loop_arguments(point: EditPoint) -> set[str]:
    """Return the arguments that the function with the loop has to take."""
    return {point.hparams_argument}


def cache_arguments(point: EditPoint) -> set[str]:
    """Return the arguments that the function with the cache has to take."""
    return {point.hparams_argument, point.cache_argument}


def _dispatching(
    point: EditPoint, where: str, original: FunctionType, run: Run, active: Callable[[], bool]
) -> FunctionType:
    """Return a replacement of ``original`` that calls ``run`` if the hparams ask for SADR."""

    signature = signature_of(original)
    warned: set[type] = set()

    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return original(*args, **kwargs)  # the toolkit raises its own error
        if not active():
            return original(*args, **kwargs)
        hparams = bound.arguments.get(point.hparams_argument)
        value = getattr(hparams, KEY, None)
        if value is None or value is False:
            if not takes_flag(hparams):
                _refuse_flag_in_another_argument(point, where, bound)
                _warn_of_no_place(point, where, type(hparams), warned)
            return original(*args, **kwargs)
        return run(point, original, bound, value)

    return cast(FunctionType, function)


def _refuse_flag_in_another_argument(
    point: EditPoint, where: str, bound: inspect.BoundArguments
) -> None:
    """Check that the flag is not in an argument that the declaration does not name.

    Otherwise the flag would have been accepted, and would do nothing.

    Raises:
        AttachmentError: it is in another argument.
    """
    for name, value in {**bound.arguments, **bound.kwargs}.items():
        if takes_flag(value) and getattr(value, KEY) not in (None, False):
            raise AttachmentError(
                f"{where}: its hparams are in the argument {name!r}, not in "
                f"{point.hparams_argument!r}; correct hparams_argument in the adapter's declaration"
            )


def _warn_of_no_place(point: EditPoint, where: str, given: type, warned: set[type]) -> None:
    """Warn, once for each class, of an edit whose hparams could not have asked for SADR."""
    if given not in warned:
        warned.add(given)
        warnings.warn(
            f"{where}: its argument {point.hparams_argument!r} is of the class {given.__name__}, "
            "which has no place for the flag, so this edit is plain; an adapter's hparams_argument "
            "has to name an argument of the class that its hparams names",
            stacklevel=3,
        )


def run_with_penalty(
    point: EditPoint, original: FunctionType, bound: inspect.BoundArguments, value: Any
) -> Any:
    """Run the function with the drift penalty in its loop's loss."""
    # These imports load pydantic and what nnsight needs. An edit without the flag does not need
    # them.
    from ..config import SadrConfig
    from ._loop import with_loss_term

    config = SadrConfig.parse(value)
    assert config is not None
    bound.apply_defaults()
    session = session_of(point, bound.arguments, config)
    loop = with_loss_term(original, session.add_terms, session.finished, point.labels)
    with session:
        return loop(*bound.args, **bound.kwargs)


def session_of(
    point: EditPoint, arguments: MutableMapping[str, Any], config: SadrConfig
) -> EditSession:
    """Return the session of one call of the function, which is not entered yet.

    Everything is checked that can be known before the first forward.

    Args:
        point: the editor's declaration.
        arguments: the arguments of the call, by name. The hparams are replaced by a copy with the
            number of steps of ``config``, if it has one.
        config: the user's settings.

    Raises:
        SadrError: the edit is refused.
    """
    from ..method._session import EditSession

    hparams = _with_steps(point, arguments[point.hparams_argument], config.num_grad_steps)
    arguments[point.hparams_argument] = hparams
    limit = None if point.steps_attribute is None else getattr(hparams, point.steps_attribute)
    edit = point.edit(arguments)
    return EditSession(point, edit, config, plugin_manager().hook, limit)


def _with_steps(point: EditPoint, hparams: Any, steps: int | None) -> Any:
    """Return a copy of the hparams with another number of steps.

    Returns:
        The hparams themselves if ``steps`` is None.

    Raises:
        AttachmentError: the declaration names an attribute that the hparams do not have.
        ConfigError: ``steps`` is given, but there is no attribute for it.
    """
    name = point.steps_attribute
    if name is not None and not hasattr(hparams, name):
        raise AttachmentError(
            f"{point.editor}: {type(hparams).__name__} has no attribute {name!r} for the number "
            "of steps; its adapter's steps_attribute is wrong"
        )
    if steps is None:
        return hparams
    if name is None:
        raise ConfigError(
            f"sadr.num_grad_steps: {point.editor} has no number of steps that could be set; "
            "remove the key"
        )
    hparams = copy.copy(hparams)
    object.__setattr__(hparams, name, steps)  # the class may be frozen
    return hparams


def run_with_own_cache(
    point: EditPoint, original: FunctionType, bound: inspect.BoundArguments, value: Any
) -> Any:
    """Run the function with file names that only edits with the same settings share.

    A toolkit's file names contain only the toolkit's own settings. A vector found with SADR would
    be read by an edit without it, at another γ or with another penalty.
    """
    from ..config import SadrConfig

    config = SadrConfig.parse(value)
    assert config is not None
    bound.apply_defaults()
    template = bound.arguments[point.cache_argument]
    if template is not None:
        settings = config.model_copy(update={"gamma": config.weight(point.gamma)})
        method = {
            # `reuse` is left out because it does not change the vector.
            "settings": settings.model_dump_json(exclude={"reuse"}),
            "version": plugin_version(),
            "hooks": _method_in_force(),
            "source": _own_source(),
        }
        digest = hashlib.sha256(json.dumps(method).encode()).hexdigest()[:12]
        stem, suffix = os.path.splitext(str(template))
        bound.arguments[point.cache_argument] = f"{stem}.sadr-{digest}{suffix}"
    return original(*bound.args, **bound.kwargs)


def _method_in_force() -> list[str]:
    """Identify the functions that give heads, penalty and terms, and the objects they are bound to.

    If an object cannot be identified across processes, the result differs in each process.
    """
    hooks = plugin_manager().hook
    return [
        _identity(implementation.function)
        for hook in (hooks.sadr_selected_heads, hooks.sadr_penalty, hooks.sadr_loss_terms)
        for implementation in hook.get_hookimpls()
    ]


@cache
def _own_source() -> str:
    """Identify the plugin's own code for heads, penalty and terms.

    The version does not tell it in an editable installation.
    """
    package = Path(__file__).parents[1]
    files = [*sorted(package.glob("method/*.py")), *sorted(package.glob("keep/*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _identity(function: Any) -> str:
    owner = getattr(function, "__self__", None)
    plain = getattr(function, "__func__", function)
    code = getattr(plain, "__code__", None)
    if code is None:
        return repr(plain)
    cells = [cell.cell_contents for cell in plain.__closure__ or ()]
    bound = (plain.__defaults__, plain.__kwdefaults__, cells, getattr(owner, "__dict__", None))
    # Later versions of marshal's format depend on which objects are shared, which is random.
    digest = hashlib.sha256(marshal.dumps(code, 2)).hexdigest()
    return f"{plain.__module__}.{plain.__qualname__}:{digest}:{bound!r}"


def _swap(package: str, old: object, new: object) -> None:
    """Replace ``old`` with ``new`` in every imported module of ``package`` that holds it."""
    for name, module in list(sys.modules.items()):
        if name == package or name.startswith(package + "."):
            for attribute, value in list(vars(module).items()):
                if value is old:
                    setattr(module, attribute, new)
