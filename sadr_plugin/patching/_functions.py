"""What is called in the place of a toolkit's functions: a plain call, or an edit with SADR."""

from __future__ import annotations

import copy
import inspect
import logging
import warnings
from collections.abc import Callable, Iterable, MutableMapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

from .._signatures import signature_of
from ..adapter import EditPoint
from ..errors import AttachmentError, ConfigError
from ..plugins import plugin_manager
from ._flag import flag_of, is_flagged, is_wanted
from ._hparams_class import takes_flag

if TYPE_CHECKING:
    from ..config import SadrConfig
    from ..method._session import EditSession

LOGGER = logging.getLogger("sadr_plugin")

Run = Callable[[EditPoint, FunctionType, inspect.BoundArguments, Any], Any]
"""A function that runs a call with a flag: takes point, original, bound arguments and flag."""

Refusal = Callable[[EditPoint], "str | None"]
"""A function that says why an editor's edits cannot have SADR now; None if they can."""


class Dispatch:
    """Calls a toolkit's function as it is, or runs it with SADR if the hparams ask for it.

    Args:
        point: the editor's declaration.
        target: the function, ``"package.module:function"``.
        run: see `Run`.
        refusal: see `Refusal`. It is asked at each call with a flag, because callers may keep the
            function after `disable`.
    """

    def __init__(self, point: EditPoint, target: str, run: Run, refusal: Refusal) -> None:
        self._point = point
        self._where = f"{point.editor}: {target}"
        self._run = run
        self._refusal = refusal
        self._warned: set[type] = set()

    def __call__(self, original: FunctionType, /, *args: Any, **kwargs: Any) -> Any:
        """Call ``original``, the toolkit's function.

        Raises:
            ConfigError: the hparams ask for SADR, and no edit of this editor can have it now.
            AttachmentError: another argument than the declared one asks for SADR.
        """
        signature = signature_of(original)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return original(*args, **kwargs)  # the toolkit raises its own error
        name = self._point.hparams_argument
        hparams = bound.arguments.get(name)
        value = flag_of(hparams)
        if not is_wanted(value):
            self._refuse_flag_in_another_argument(bound)
            if name in signature.parameters and not takes_flag(hparams):
                self._warn_of_no_place(type(hparams))
            return original(*args, **kwargs)
        refusal = self._refusal(self._point)
        if refusal is not None:
            raise ConfigError(refusal)
        return self._run(self._point, original, bound, value)

    def _refuse_flag_in_another_argument(self, bound: inspect.BoundArguments) -> None:
        """Check that the flag is not in an argument that the declaration does not name.

        Otherwise the flag would have been accepted, and would do nothing.
        """
        for name, value in {**bound.arguments, **bound.kwargs}.items():
            held = value if isinstance(value, tuple) else (value,)  # a tuple of *args
            if any(map(_asks_for_sadr, held)):
                raise AttachmentError(
                    f"{self._where}: its hparams are in the argument {name!r}, not in "
                    f"{self._point.hparams_argument!r}; correct hparams_argument in the adapter's "
                    "declaration"
                )

    def _warn_of_no_place(self, given: type) -> None:
        """Warn, once for each class, of an edit whose hparams could not have asked for SADR."""
        if given not in self._warned and self._refusal(self._point) is None:
            self._warned.add(given)
            warnings.warn(
                f"{self._where}: its argument {self._point.hparams_argument!r} is of the class "
                f"{given.__name__}, which has no place for the flag, so this edit is plain; an "
                "adapter's hparams_argument has to name an argument of the class that its hparams "
                "names",
                stacklevel=4,
            )


def _asks_for_sadr(value: Any) -> bool:
    return is_flagged(value) or (takes_flag(value) and is_wanted(flag_of(value)))


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


def refuse_other_loop(point: EditPoint, function: FunctionType) -> None:
    """Check that the function with the loop takes what its declaration says.

    Raises:
        AttachmentError: an argument is missing. Or the declaration names all parameters, and the
            function has others.
    """
    where, takes = f"{point.editor}: {point.function}", list(signature_of(function).parameters)
    refuse_missing_arguments(where, loop_arguments(point), takes)
    if point.parameters is not None and takes != list(point.parameters):
        raise AttachmentError(
            f"{where} takes ({', '.join(takes)}), and its adapter is made for "
            f"({', '.join(point.parameters)}); correct the adapter's declaration, or install the "
            "version that it is made for"
        )


def run_with_penalty(
    point: EditPoint, original: FunctionType, bound: inspect.BoundArguments, value: Any
) -> Any:
    """Run the function with the drift penalty in its loop's loss.

    Raises:
        AttachmentError: the function is not the one that the editor's declaration describes.
    """
    # These imports load pydantic and what nnsight needs. An edit without the flag does not need
    # them.
    from ..config import SadrConfig
    from ._loop import with_loss_term

    refuse_other_loop(point, original)
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


def run_without_cache(
    point: EditPoint, original: FunctionType, bound: inspect.BoundArguments, value: Any
) -> Any:
    """Run the function without the files in which the toolkit keeps the vectors it found.

    A toolkit names these files by some of its own settings. A vector depends on more: on SADR's
    settings, on the plugins that give heads, penalty and terms, and on all of their code. No name
    can tell them all apart, and a wrong vector read from a file would go unnoticed.
    """
    template = bound.arguments.get(point.cache_argument)
    if template is not None:
        LOGGER.info(
            "SADR: %s neither reads nor writes the cached vectors %s, because their names do not "
            "tell how they were found",
            point.editor,
            template,
        )
        bound.arguments[point.cache_argument] = None
    return original(*bound.args, **bound.kwargs)
