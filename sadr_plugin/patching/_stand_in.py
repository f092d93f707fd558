"""Stand in for a function of a toolkit: the call is ours, everything else is the function's."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

Call = Callable[..., Any]
"""A function that is called in the place of another. Its first argument is the other one."""


class StandIn:
    """Is called in the place of a function, and otherwise looks like it.

    Every attribute that is read or written is the function's own. So a reloader that writes new
    code into old functions, as IPython's autoreload does, reaches the toolkit's function. Were the
    replacement a function itself, the reloader would write the toolkit's code into it.

    Args:
        function: the toolkit's own function.
        call: see `Call`.
    """

    __slots__ = ("__weakref__", "__wrapped__", "_call")

    def __init__(self, function: Callable[..., Any], call: Call) -> None:
        object.__setattr__(self, "__wrapped__", function)
        object.__setattr__(self, "_call", call)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._call(self.__wrapped__, *args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __getattribute__(self, name: str) -> Any:
        if name in _OWN:
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "__wrapped__"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__wrapped__, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__wrapped__, name)

    def __repr__(self) -> str:
        return f"<SADR's stand-in for {self.__wrapped__!r}>"

    def __reduce_ex__(self, protocol: Any) -> str:
        # Pickles and copies refer to it by its name, as to any function.
        name: str = self.__wrapped__.__qualname__
        return name


_OWN = frozenset({"__call__", "__get__", "__reduce_ex__", "__wrapped__", "_call"})


def function_of(value: Any) -> Any:
    """Return the function that a stand-in stands for; any other value as it is."""
    return value.__wrapped__ if isinstance(value, StandIn) else value
