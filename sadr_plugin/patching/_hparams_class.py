"""Make a toolkit's hparams classes accept a ``sadr`` key, and undo it.

Toolkits build hparams as ``cls(**config)`` from a YAML file. An unknown key is an error there. The
plugin takes the key out, checks it at once and stores it on the instance. Copies, pickles and
`dataclasses.replace` keep it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from ..errors import ConfigError

KEY = "sadr"

Refusal = Callable[[type], str]

_FIELDS = "__dataclass_fields__"
_ABSENT = object()
_patching = threading.RLock()
_reading_file = ContextVar("_reading_file", default=False)


def _flag_of(instance: Any) -> Any:
    return getattr(instance, "__dict__", {}).get(KEY)


class Flag:
    """The ``sadr`` attribute of an hparams class. It is checked when it is set.

    Args:
        refusal: None for an attached editor. Otherwise a function that says why a class cannot have
            the flag.
        on_subclass: called with a subclass that was defined after the patch, when the flag is set
            on an instance of it.
    """

    def __init__(self, refusal: Refusal | None, on_subclass: Callable[[type], None]) -> None:
        self._refusal = refusal
        self._on_subclass = on_subclass

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else _flag_of(instance)

    def __set__(self, instance: Any, value: Any) -> None:
        self.check(type(instance), value)
        if not hasattr(instance, "__dict__"):
            raise ConfigError(
                f"sadr: {type(instance).__name__} has __slots__ and no place for the flag; add "
                "the slot __dict__"
            )
        if self._refusal is None and not is_patched(type(instance)):
            self._on_subclass(type(instance))
        instance.__dict__[KEY] = value

    def check(self, hparams: type, value: Any) -> None:
        """Check that ``hparams`` can have this ``value``.

        Raises:
            ConfigError: the value is wrong, or the editor is not attached.
        """
        from ..config import SadrConfig  # importing pydantic takes long

        wanted = SadrConfig.parse(value) is not None
        if wanted and self._refusal is not None:
            raise ConfigError(self._refusal(hparams))

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
        if instance is None or _flag_of(instance) is None:
            return self._fields
        return {**self._fields, KEY: _flag_field()}


def is_patched(hparams: type) -> bool:
    """Whether the class itself has the flag, and not only a base class of it."""
    return isinstance(vars(hparams).get(KEY), Flag)


def takes_flag(hparams: object) -> bool:
    """Whether the object is of a class that has the flag, itself or from a base class."""
    return isinstance(inspect.getattr_static(type(hparams), KEY, None), Flag)


class HparamsPatch:
    """Makes one hparams class accept or refuse the flag, until `undo`.

    Args:
        hparams: the class. It accepts the flag in the constructor, in its YAML file, or as an
            attribute that is set later.
        refusal: as for `Flag`.

    Raises:
        TypeError: the class cannot be changed, as one of Python's own.
    """

    def __init__(self, hparams: type, refusal: Refusal | None = None) -> None:
        self.hparams = hparams
        self.refusal = refusal
        self._replaced: dict[str, Any] = {}
        self._subclasses: list[HparamsPatch] = []
        own = vars(hparams)
        self._replace(KEY, Flag(refusal, self._patch_subclass))
        self._replace("__init__", _taking_flag(own.get("__init__") or _inherited_init(hparams)))
        if isinstance(own.get("from_hparams"), classmethod):
            self._replace("from_hparams", _naming_file(own["from_hparams"]))
        if refusal is None:
            if "__repr__" in own:
                self._replace("__repr__", _showing_flag(own["__repr__"]))
            if _FIELDS in own:
                self._replace(_FIELDS, _Fields(own[_FIELDS]))

    def undo(self) -> None:
        """Restore the class's own attributes."""
        for patch in reversed(self._subclasses):
            patch.undo()
        self._subclasses = []
        for name, original in self._replaced.items():
            if original is _ABSENT:
                delattr(self.hparams, name)
            else:
                setattr(self.hparams, name, original)
        self._replaced = {}

    def _patch_subclass(self, subclass: type) -> None:
        with _patching:
            if not is_patched(subclass):
                self._subclasses.append(HparamsPatch(subclass, self.refusal))

    def _replace(self, name: str, value: Any) -> None:
        self._replaced[name] = vars(self.hparams).get(name, _ABSENT)
        setattr(self.hparams, name, value)


@functools.cache
def _flag_field() -> dataclasses.Field[Any]:
    """Return the flag as a dataclass field that is ignored in comparisons."""

    @dataclasses.dataclass
    class Flagged:
        sadr: Any = dataclasses.field(default=None, compare=False, kw_only=True)

    (field,) = dataclasses.fields(Flagged)
    return field


def _showing_flag(represent: Callable[[Any], str]) -> Callable[[Any], str]:
    @functools.wraps(represent)
    def __repr__(self: Any) -> str:
        shown, value = represent(self), _flag_of(self)
        if value is None or f"{KEY}=" in shown or not shown.endswith(")"):
            return shown
        comma = "" if shown.endswith("(") else ", "
        return f"{shown[:-1]}{comma}{KEY}={value!r})"

    return __repr__


def _taking_flag(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        given = KEY in kwargs
        value = kwargs.pop(KEY, None)
        flag = inspect.getattr_static(type(self), KEY, None)
        if given and value is None and _reading_file.get():
            raise ConfigError("sadr: the key is empty; write true, false or settings")
        if given and isinstance(flag, Flag):
            flag.check(type(self), value)  # before the toolkit raises other errors
        init(self, *args, **kwargs)
        if given:
            object.__setattr__(self, KEY, value)  # the class may be frozen

    return __init__


def _inherited_init(hparams: Any) -> Callable[..., None]:
    """Return an ``__init__`` that does what the class does without one of its own."""
    inherited = hparams.__init__
    # `object.__init__` lets the arguments of a `__new__` pass only in a class without `__init__`.
    takes_none = inherited is object.__init__ and hparams.__new__ is not object.__new__

    @functools.wraps(inherited)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if not takes_none:
            super(hparams, self).__init__(*args, **kwargs)

    return __init__


def drops_flag(hparams: type) -> bool:
    """Whether the class is a pydantic model that is also built without its ``__init__``.

    `model_validate` calls only an ``__init__`` that the model's own code defines. It ignores a key
    that is no field.
    """
    init = inspect.getattr_static(hparams, "__init__")
    return getattr(init, "__pydantic_base_init__", False)


def _naming_file(from_hparams: Any) -> Any:
    original = from_hparams.__func__

    @functools.wraps(original)
    def wrapped(cls: type, *args: Any, **kwargs: Any) -> Any:
        token = _reading_file.set(True)
        try:
            return original(cls, *args, **kwargs)
        except ConfigError as error:
            file = next(iter((*args, *kwargs.values())), cls.__name__)
            raise ConfigError(f"{file}: {error}") from None
        finally:
            _reading_file.reset(token)

    return classmethod(wrapped)
