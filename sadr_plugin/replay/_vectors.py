"""The vectors that an edit's loop adds, seen where it adds them, and put in place elsewhere.

Toolkits add a vector by a forward hook on the edited layer or on a part of it: ROME's on the MLP,
MEMIT's on the layer, PMET's two on the attention and the MLP. What such a hook changes is seen by
two hooks of ours around it. So the place need not be declared, and where a model normalises what
the part gives before adding it, as Gemma does, the vector is put in ahead of that, as in the loop.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..errors import UnsupportedLoopError
from ..reuse._arguments import hidden_of, with_hidden


class Vectors:
    """The vectors of an edit's loop.

    Args:
        layer: the edited layer, without the loop's hooks as yet; hooks that are there are taken for
            the model's own.
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

    @contextlib.contextmanager
    def watched(self, row: int, token: int) -> Iterator[None]:
        """See the vectors that a forward of the loop adds inside the block.

        Args:
            row: a row of the loop's batch; all of them gain the same vectors.
            token: the token of it that gains them.
        """
        self._added.clear()

        def before(part: nn.Module, _: Any, output: Any) -> None:
            hidden = hidden_of(output)
            if isinstance(hidden, Tensor) and hidden.dim() == 3 and len(hidden) > row:
                self._before[part] = (hidden, hidden._version, hidden[row, token].clone())

        def after(part: nn.Module, _: Any, output: Any) -> None:
            hidden, (was, version, value) = hidden_of(output), self._before.pop(part, _NOTHING)
            if was is not None and (hidden is not was or hidden._version != version):
                # Both with their gradients: what reached both by another vector cancels.
                self._added[part] = hidden[row, token] - value

        with contextlib.ExitStack() as stack:
            stack.callback(self._before.clear)
            for part in self._parts:
                handle = part.register_forward_hook(before)
                stack.callback(handle.remove)
                # Behind the model's own hooks and ahead of the loop's, which are there by now.
                for hook in list(part._forward_hooks):
                    if hook not in self._own[part] and hook != handle.id:
                        part._forward_hooks[hook] = part._forward_hooks.pop(hook)
                stack.callback(part.register_forward_hook(after).remove)
            yield
        if not self._seen:
            self._parts = list(self._added)
            self._seen = True

    def are_aside(self) -> bool:
        """Whether this thread runs other prompts just now, or the model without the edit."""
        return self._aside == threading.get_ident()

    def length(self) -> Tensor:
        """The length of the longest of them, a scalar without gradient.

        Raises:
            UnsupportedLoopError: none was seen.
        """
        if not self._added:
            raise UnsupportedLoopError(
                f"{self._editor}: no forward hook was seen to add a vector in the edited layer, "
                "so other prompts cannot be run with it; remove sadr.keep and other terms that "
                "do"
            )
        lengths = [vector.detach().float().norm() for vector in self._added.values()]
        longest: Tensor = lengths[0]
        for length in lengths[1:]:
            longest = longest.maximum(length.to(longest.device))
        return longest

    def forget(self) -> None:
        """Let go of the vectors, and of the graph they hang in."""
        self._added.clear()

    @contextlib.contextmanager
    def absent(self) -> Iterator[None]:
        """Inside the block the model runs without the edit."""
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
        """Inside the block other prompts gain the vectors.

        Args:
            rows: the rows of their batch.
            tokens: the token of each that gains them.
        """

        def add(part: nn.Module, _: Any, output: Any) -> Any:
            hidden = hidden_of(output)
            vector = self._added[part].to(hidden.device, hidden.dtype)
            at = (rows.to(hidden.device), tokens.to(hidden.device))
            return with_hidden(output, hidden.index_put(at, vector, accumulate=True))

        with self.absent():
            for part in self._added:
                part.register_forward_hook(add)  # goes with the hooks that `absent` put there
            yield


_NOTHING: tuple[Any, int, Any] = (None, 0, None)


@contextlib.contextmanager
def _with_hooks(part: nn.Module, kept: set[int]) -> Iterator[None]:
    """Inside the block the module has only these forward hooks: one of the loop's own adds its
    vector to whatever batch it is given, at the places of the loop's."""
    hooks = part.__dict__["_forward_hooks"]
    part.__dict__["_forward_hooks"] = OrderedDict(
        (name, hook) for name, hook in hooks.items() if name in kept
    )
    try:
        yield
    finally:
        part.__dict__["_forward_hooks"] = hooks
