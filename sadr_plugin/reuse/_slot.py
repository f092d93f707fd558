"""Replace the ``forward`` of a model or a layer for the length of an edit."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import BusyModelError

if TYPE_CHECKING:
    from torch import nn

_lock = threading.Lock()
_watched: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class ForwardSlot:
    """Replaces a model's ``forward``, and restores it.

    A model can have only one replacement at a time. If two were made and removed in the same order,
    the second would restore the first one's replacement, which would then stay.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._filled = False
        self._had_own: Any = None

    def fill(self, replacement: Callable[..., Any]) -> None:
        """Make the model call ``replacement(forward, …)`` instead of ``forward(…)``.

        Raises:
            BusyModelError: the model's forward is replaced already.
        """
        with _lock:
            if self._model in _watched:
                raise BusyModelError(
                    f"this {type(self._model).__name__} is being edited with SADR already, in "
                    "another thread or in a hook of that edit; wait for it to end, or edit a copy"
                )
            # This comes first, because an interrupt may come at any time.
            self._had_own = self._model.__dict__.get("forward")
            self._filled = True
            _watched.add(self._model)
        original = self._model.forward

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return replacement(original, *args, **kwargs)

        self._model.__dict__["forward"] = forward

    def restore(self) -> None:
        """Restore the original forward. It may be called more than once."""
        if not self._filled:
            return
        if self._had_own is None:
            self._model.__dict__.pop("forward", None)
        else:
            self._model.__dict__["forward"] = self._had_own
        with _lock:
            _watched.discard(self._model)
            self._filled = False
