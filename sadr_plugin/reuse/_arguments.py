"""What a layer is called with: its arguments, cut to a window, and its attention's cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ._window import Window, is_of_tokens


class LayerCache:
    """A layer's cache for one forward.

    Args:
        update: given new keys and values, answers with those to attend to.
        original: the cache that the model handed down, if any; answers everything else.
    """

    def __init__(self, update: Callable[..., tuple[Tensor, Tensor]], original: Any) -> None:
        self.update = update
        self.asked: list[str] = []
        """What the layer asked of it besides, which a window could not answer."""
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
    """What a layer was called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...]

    def get(self, name: str) -> Any:
        """The argument of that name; None if it was not given."""
        if name in self.names[: len(self.args)]:
            return self.args[self.names.index(name)]
        return self.kwargs.get(name)

    def replaced(self, name: str, value: Any) -> Arguments:
        """The same with another value."""
        if name in self.names[: len(self.args)]:
            place = self.names.index(name)
            args = (*self.args[:place], value, *self.args[place + 1 :])
            return Arguments(args, self.kwargs, self.names)
        return Arguments(self.args, {**self.kwargs, name: value}, self.names)

    def map(self, change: Callable[[Any], Any]) -> Arguments:
        """The same with each value changed."""
        kwargs = {name: change(value) for name, value in self.kwargs.items()}
        return Arguments(tuple(map(change, self.args)), kwargs, self.names)

    @property
    def hidden(self) -> Any:
        """The hidden states."""
        return hidden_in(self.args, self.kwargs)


def hidden_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The hidden states that a layer is called with; None if there are none."""
    return args[0] if args else kwargs.get("hidden_states")


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """What a module gave, with other hidden states in it."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def hidden_of(output: Any) -> Any:
    """The hidden states among what a layer gives."""
    return output[0] if isinstance(output, tuple) and output else output


def cut_value(value: Any, window: Window, rows: int, tokens: int) -> Any:
    """Of an argument of a layer the window's part, if it has one for each token."""
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
    """An argument of a layer without its gradient."""
    if isinstance(value, tuple):
        return tuple(map(detached, value))
    return value.detach() if isinstance(value, Tensor) else value
