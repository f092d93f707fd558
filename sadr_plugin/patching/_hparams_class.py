"""Make a toolkit's hparams classes accept a ``sadr`` key, and undo it.

Toolkits build hparams as ``cls(**config)`` from a YAML file. An unknown key is an error there. The
plugin takes the key out, checks it at once and stores it on the instance. Copies, pickles and
`dataclasses.replace` keep it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from ..errors import ConfigError
from ._flag import KEY, Flag, bare, is_wanted
from ._stand_in import StandIn

Obstacle = Callable[[type], "str | None"]
"""A function that says why objects of an hparams class cannot have the flag; None if they can.

It is asked with the object's class whenever a flag is set. It may patch the class, or renew its
patch.
"""

_FIELDS = "__dataclass_fields__"
_ABSENT = object()
_reading_file = ContextVar("_reading_file", default=False)


def _kept(instance: Any) -> Any:
    """Return what an object itself has under ``sadr``."""
    return bare(getattr(instance, "__dict__", {}).get(KEY))


class FlagAttribute:
    """The ``sadr`` attribute of an hparams class. It is checked when it is set."""

    def __init__(self, obstacle: Obstacle) -> None:
        self._obstacle = obstacle

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else _kept(instance)

    def __set__(self, instance: Any, value: Any) -> None:
        value = bare(value)
        self.check(type(instance), value)
        if not hasattr(instance, "__dict__"):
            raise ConfigError(
                f"sadr: {type(instance).__name__} has __slots__ and no place for the flag; add "
                "the slot __dict__"
            )
        instance.__dict__[KEY] = Flag(value) if is_wanted(value) else value

    def check(self, hparams: type, value: Any) -> None:
        """Check that ``hparams`` can have this ``value``.

        Raises:
            ConfigError: the value is wrong, or objects of the class cannot have the flag.
        """
        from ..config import SadrConfig  # importing pydantic takes long

        if SadrConfig.parse(bare(value)) is not None:
            obstacle = self._obstacle(hparams)
            if obstacle is not None:
                raise ConfigError(obstacle)

    def __delete__(self, instance: Any) -> None:
        getattr(instance, "__dict__", {}).pop(KEY, None)


class _Fields:
    """The fields of a dataclass. An instance with a flag also shows the flag as a field.

    `dataclasses.replace` copies only an instance's fields. The fields of the class do not change,
    so subclasses get only what the toolkit gives them.
    """

    def __init__(self, fields: dict[str, dataclasses.Field[Any]]) -> None:
        self._fields = fields

    def __get__(self, instance: Any, owner: type | None = None) -> dict[str, Any]:
        if instance is None or _kept(instance) is None:
            return self._fields
        return {**self._fields, KEY: _flag_field()}


def takes_flag(hparams: object) -> bool:
    """Whether the object is of a class that has the flag, itself or from a base class."""
    return isinstance(inspect.getattr_static(type(hparams), KEY, None), FlagAttribute)


class HparamsPatch:
    """Makes one hparams class take the flag, until `undo`.

    Args:
        hparams: the class. It takes the flag in the constructor, in its YAML file, or as an
            attribute that is set later.
        obstacle: see `Obstacle`.

    Raises:
        TypeError: the class cannot be changed, as one of Python's own.
    """

    def __init__(self, hparams: type, obstacle: Obstacle) -> None:
        self._hparams = hparams
        self._obstacle = obstacle
        self._own: dict[str, Any] = {}
        self.renew()

    def renew(self) -> None:
        """Put in place what is not there, or not any more: a reloader writes into classes."""
        own = dict(vars(self._hparams))
        if not _is_ours(own.get(KEY)):
            self._replace(KEY, FlagAttribute(self._obstacle))
        if not _is_ours(own.get("__init__")):
            init = own.get("__init__") or _inherited_init(self._hparams)
            self._replace("__init__", StandIn(init, _init_taking_flag))
        from_hparams = own.get("from_hparams")
        if isinstance(from_hparams, classmethod) and not _is_ours(from_hparams):
            named = StandIn(from_hparams.__func__, _from_hparams_naming_file)
            self._replace("from_hparams", classmethod(named))
        if "__repr__" in own and not _is_ours(own["__repr__"]):
            self._replace("__repr__", StandIn(own["__repr__"], _repr_showing_flag))
        if _FIELDS in own and not _is_ours(own[_FIELDS]):
            self._replace(_FIELDS, _Fields(own[_FIELDS]))

    def undo(self) -> None:
        """Restore the class's own attributes. What others have put in their place stays."""
        # A reloader may have copied the attribute from another class.
        for name, original in {KEY: _ABSENT, **self._own}.items():
            if not _is_ours(vars(self._hparams).get(name)):
                continue
            if original is _ABSENT:
                delattr(self._hparams, name)
            else:
                setattr(self._hparams, name, original)
        self._own = {}

    def _replace(self, name: str, value: Any) -> None:
        own = vars(self._hparams).get(name, _ABSENT)
        setattr(self._hparams, name, value)
        self._own[name] = own


def _is_ours(value: Any) -> bool:
    """Whether an attribute of a class is one that the plugin put there."""
    inner = value.__func__ if isinstance(value, classmethod) else value
    return isinstance(inner, (FlagAttribute, StandIn, _Fields))


@functools.cache
def _flag_field() -> dataclasses.Field[Any]:
    """Return the flag as a dataclass field that is ignored in comparisons."""

    @dataclasses.dataclass
    class Flagged:
        sadr: Any = dataclasses.field(default=None, compare=False, kw_only=True)

    (field,) = dataclasses.fields(Flagged)
    return field


def _repr_showing_flag(represent: Callable[[Any], str], self: Any, /) -> str:
    """Show a flag as a dataclass shows a field."""
    shown, value = represent(self), _kept(self)
    if value is None or f"{KEY}=" in shown or not shown.endswith(")"):
        return shown
    comma = "" if shown.endswith("(") else ", "
    return f"{shown[:-1]}{comma}{KEY}={value!r})"


def _init_taking_flag(init: Callable[..., None], self: Any, /, *args: Any, **kwargs: Any) -> None:
    """Build an hparams object, with or without a flag."""
    flag = inspect.getattr_static(type(self), KEY, None)
    if KEY not in kwargs or not isinstance(flag, FlagAttribute):
        init(self, *args, **kwargs)
        return
    value = kwargs.pop(KEY)
    if value is None and _reading_file.get():
        raise ConfigError("sadr: the key is empty; write true, false or settings")
    flag.check(type(self), value)  # before the toolkit raises other errors
    init(self, *args, **kwargs)
    object.__setattr__(self, KEY, value)  # the class may be frozen


def _from_hparams_naming_file(
    from_hparams: Callable[..., Any], cls: type, /, *args: Any, **kwargs: Any
) -> Any:
    """Build an hparams object from a file, and name the file if its flag is wrong."""
    token = _reading_file.set(True)
    try:
        return from_hparams(cls, *args, **kwargs)
    except ConfigError as error:
        file = next(iter((*args, *kwargs.values())), cls.__name__)
        raise ConfigError(f"{file}: {error}") from None
    finally:
        _reading_file.reset(token)


def _inherited_init(hparams: Any) -> Callable[..., None]:
    """Return an ``__init__`` that does what the class does without one of its own."""
    inherited = hparams.__init__
    # `object.__init__` lets the arguments of a `__new__` pass only in a class without `__init__`.
    takes_none = inherited is object.__init__ and hparams.__new__ is not object.__new__
    # Not a function of its own, so no reloader writes a class's new `__init__` into it.
    init = functools.partial(_init_of_base, hparams, takes_none)
    return functools.update_wrapper(init, inherited)


def _init_of_base(hparams: Any, takes_none: bool, self: Any, /, *args: Any, **kwargs: Any) -> None:
    if not takes_none:
        super(hparams, self).__init__(*args, **kwargs)


def drops_flag(hparams: type) -> bool:
    """Whether the class is a pydantic model that is also built without its ``__init__``.

    `model_validate` calls only an ``__init__`` that the model's own code defines. It ignores a key
    that is no field.
    """
    init = inspect.getattr_static(hparams, "__init__")
    return getattr(init, "__pydantic_base_init__", False)
