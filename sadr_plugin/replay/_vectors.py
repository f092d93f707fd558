"""Observe the vectors that an edit's loop adds, and add them in other prompts.

Toolkits add a vector with a forward hook on the edited layer or a part of it. ROME's is on the MLP,
MEMIT's on the layer, PMET's two are on the attention and the MLP. Two hooks of the plugin, before
and after such a hook, observe what it changes. The place therefore need not be declared. Some
models, such as Gemma, normalise the output of the part before they add it. In these models, too,
the vector is added before the normalisation, as in the loop.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from .._threads import hook_here
from ..errors import UnsupportedLoopError
from ..reuse._arguments import hidden_of, with_hidden


class Vectors:
    """The vectors of an edit's loop.

    Args:
        layer: the edited layer, before the loop adds its hooks. Hooks that are on it already count
            as the model's own.
        editor: the editor's name, for errors.
    """

    def __init__(self, layer: nn.Module, editor: str) -> None:
        self._editor = editor
        self._parts = list(layer.modules())
        self._own = {part: set(part._forward_hooks) for part in self._parts}
        self._seen = False
        self._before: dict[nn.Module, tuple[Tensor, int, Tensor]] = {}
        self._added: dict[nn.Module, Tensor] = {}
        self._aside = 0
        self.are_replayed = False
        """Whether a term runs other prompts with them."""

    @contextlib.contextmanager
    def watched(self, row: int, token: int) -> Iterator[None]:
        """Observe the vectors that a forward of the loop adds inside a ``with`` block.

        Args:
            row: a row of the loop's batch. All rows receive the same vectors.
            token: the token of this row that receives them.
        """
        self._added.clear()

        def before(part: nn.Module, _: Any, output: Any) -> None:
            hidden = hidden_of(output)
            if isinstance(hidden, Tensor) and hidden.dim() == 3 and len(hidden) > row:
                self._before[part] = (hidden, hidden._version, hidden[row, token].clone())

        def after(part: nn.Module, _: Any, output: Any) -> None:
            hidden, (was, version, value) = hidden_of(output), self._before.pop(part, _NOTHING)
            if was is not None and (hidden is not was or hidden._version != version):
                # Both keep their gradients. What both received from another vector cancels out.
                self._added[part] = hidden[row, token] - value

        with contextlib.ExitStack() as stack:
            stack.callback(self._before.clear)
            for part in self._parts:
                handle = part.register_forward_hook(hook_here(before))
                stack.callback(handle.remove)
                # Move the loop's hooks, which exist by now, behind this one. The model's own stay
                # before it.
                for hook in list(part._forward_hooks):
                    if hook not in self._own[part] and hook != handle.id:
                        part._forward_hooks[hook] = part._forward_hooks.pop(hook)
                stack.callback(part.register_forward_hook(hook_here(after)).remove)
            yield
        if not self._seen:
            self._parts = list(self._added)
            self._seen = True

    def are_aside(self) -> bool:
        """Whether this thread is running other prompts, or the model without the edit."""
        return self._aside == threading.get_ident()

    def expect(self) -> None:
        """Note that a term runs other prompts with the vectors, and check that this is possible.

        Raises:
            UnsupportedLoopError: no vector was observed.
        """
        if not self._added:
            raise UnsupportedLoopError(
                f"{self._editor}: no forward hook was seen to add a vector in the edited layer, "
                "so other prompts cannot be run with it; remove sadr.keep and other terms that "
                "do"
            )
        self.are_replayed = True

    def length(self) -> Tensor:
        """Return the length of the longest vector, a scalar without gradient."""
        self.expect()
        lengths = [vector.detach().float().norm() for vector in self._added.values()]
        longest: Tensor = lengths[0]
        for length in lengths[1:]:
            longest = longest.maximum(length.to(longest.device))
        return longest

    def forget(self) -> None:
        """Release the vectors and their graph."""
        self._added.clear()

    @contextlib.contextmanager
    def absent(self) -> Iterator[None]:
        """Run the model without the edit inside a ``with`` block."""
        outer, self._aside = self._aside, threading.get_ident()
        try:
            with contextlib.ExitStack() as stack:
                for part in self._parts:
                    stack.enter_context(_with_hooks(part, self._own[part]))
                yield
        finally:
            self._aside = outer

    @contextlib.contextmanager
    def in_place(self, rows: Tensor, tokens: Tensor) -> Iterator[None]:
        """Add the vectors in other prompts inside a ``with`` block.

        Args:
            rows: the rows of their batch.
            tokens: the token of each row that receives the vectors.
        """

        def add(part: nn.Module, _: Any, output: Any) -> Any:
            hidden = hidden_of(output)
            vector = self._added[part].to(hidden.device, hidden.dtype)
            at = (rows.to(hidden.device), tokens.to(hidden.device))
            return with_hidden(output, hidden.index_put(at, vector, accumulate=True))

        with self.absent():
            for part in self._added:
                part.register_forward_hook(
                    hook_here(add)
                )  # removed together with the hooks of `absent`
            yield


_NOTHING: tuple[Any, int, Any] = (None, 0, None)


@contextlib.contextmanager
def _with_hooks(part: nn.Module, kept: set[int]) -> Iterator[None]:
    """Keep only the given forward hooks on a module inside a ``with`` block.

    A hook of the loop would add its vector to any batch, at the positions of the loop's batch.
    """
    hooks = part.__dict__["_forward_hooks"]
    part.__dict__["_forward_hooks"] = OrderedDict(
        (name, hook) for name, hook in hooks.items() if name in kept
    )
    try:
        yield
    finally:
        part.__dict__["_forward_hooks"] = hooks
