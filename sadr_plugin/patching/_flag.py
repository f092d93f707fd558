"""The flag on an hparams object: what it holds under ``sadr`` if it asks for SADR."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

KEY = "sadr"


class Flag:
    """Keeps the value under ``sadr`` in the ``__dict__`` of an hparams object.

    While one exists, its toolkit's functions refuse it wherever SADR is not enabled. Its pickle
    holds no more than its value, and unpickling makes another flag, so this is also true in another
    process.

    Attributes:
        value: what the user set: True, a mapping or a `SadrConfig`.
    """

    __slots__ = ("__weakref__", "value")

    watched: ClassVar[Callable[[Flag], None]]
    """Is told of every flag that is made. What attaches editors sets it."""

    again: ClassVar[Callable[[Any], Flag]]
    """Makes a flag from its value in any process, also where nothing has been attached yet."""

    def __init__(self, value: Any) -> None:
        self.value = value
        type(self).watched(self)

    def __eq__(self, other: object) -> bool:
        return bool(self.value == bare(other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.value)

    def __reduce__(self) -> tuple[Callable[[Any], Flag], tuple[Any]]:
        return Flag.again, (self.value,)


def bare(value: Any) -> Any:
    """Return a flag's value; any other value as it is."""
    return value.value if isinstance(value, Flag) else value


def is_wanted(value: Any) -> bool:
    """Whether a value under ``sadr`` asks for SADR."""
    return value is not None and value is not False


def flag_of(hparams: object) -> Any:
    """Return the value under ``sadr``, on the object or on its class. None if there is none."""
    return bare(getattr(hparams, KEY, None))


def is_flagged(value: object) -> bool:
    """Whether an object, of whatever class, holds a `Flag`."""
    return isinstance(getattr(value, "__dict__", {}).get(KEY), Flag)
