"""Changes to a model that apply to one thread only."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any


def only_here(function: Callable[..., Any], elsewhere: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls ``function`` in this thread and ``elsewhere`` in others."""
    thread = threading.get_ident()

    @functools.wraps(function)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        call = function if threading.get_ident() == thread else elsewhere
        return call(*args, **kwargs)

    return chosen


def forward_here(replacement: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``replacement(forward, …)`` for this thread. Others run ``forward(…)`` itself."""
    return only_here(replacement, lambda forward, *args, **kwargs: forward(*args, **kwargs))


def hook_here(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook of a module that does nothing in other threads than this one.

    A server may answer with the same model while it is edited.
    """
    return only_here(hook, lambda *_, **__: None)
