"""The arguments of a layer, cut to a window, and the cache for its attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ._window import Window, is_of_tokens


class LayerCache:
    """A layer's cache for one forward.

    Args:
        update: takes new keys and values, and returns those to attend to.
        original: the model's own cache, if there is one. It answers everything else.
    """

    def __init__(self, update: Callable[..., tuple[Tensor, Tensor]], original: Any) -> None:
        self.update = update
        self.asked: list[str] = []
        """The names of other attributes that the layer used. A window cannot provide them."""
        self._original = original

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self._original is None:
            from transformers import DynamicCache

            self._original = DynamicCache()
        found = getattr(self._original, name)
        self.asked.append(name)
        return found


@dataclass(frozen=True)
class Arguments:
    """The arguments of a call to a layer.

    Attributes:
        args: the positional arguments.
        kwargs: the keyword arguments.
        names: the names of the layer's parameters, in order.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...]

    def get(self, name: str) -> Any:
        """Return the argument with this name; None if it was not given."""
        if name in self.names[: len(self.args)]:
            return self.args[self.names.index(name)]
        return self.kwargs.get(name)

    def replaced(self, name: str, value: Any) -> Arguments:
        """Return the arguments with another value for one name."""
        if name in self.names[: len(self.args)]:
            place = self.names.index(name)
            args = (*self.args[:place], value, *self.args[place + 1 :])
            return Arguments(args, self.kwargs, self.names)
        return Arguments(self.args, {**self.kwargs, name: value}, self.names)

    def map(self, change: Callable[[Any], Any]) -> Arguments:
        """Return the arguments with ``change`` applied to each value."""
        kwargs = {name: change(value) for name, value in self.kwargs.items()}
        return Arguments(tuple(map(change, self.args)), kwargs, self.names)

    @property
    def hidden(self) -> Any:
        """The hidden states."""
        return hidden_in(self.args, self.kwargs)


def hidden_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the hidden states in a layer's arguments; None if there are none."""
    return args[0] if args else kwargs.get("hidden_states")


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """Return a module's output with other hidden states in it."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def hidden_of(output: Any) -> Any:
    """Return the hidden states in a layer's output."""
    return output[0] if isinstance(output, tuple) and output else output


def cut_value(value: Any, window: Window, rows: int, tokens: int) -> Any:
    """Cut an argument of a layer to the window, if it has a value for each token."""
    if isinstance(value, tuple):
        return tuple(cut_value(item, window, rows, tokens) for item in value)
    if isinstance(value, Tensor) and value.dim() == 4 and value.shape[2:] == (tokens, tokens):
        return window.cut_queries(value)
    if is_of_tokens(value, rows, tokens):
        return window.cut(value)
    if isinstance(value, Tensor) and value.shape == (tokens,):  # the positions of a cache
        return value[window.inside(value.device)[0]]
    return value


def detached(value: Any) -> Any:
    """Return an argument of a layer without its gradient."""
    if isinstance(value, tuple):
        return tuple(map(detached, value))
    return value.detach() if isinstance(value, Tensor) else value
