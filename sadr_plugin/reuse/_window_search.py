"""Where the vector is: the search for the tokens that change from forward to forward.

The place of the vector is not declared by the adapter. The second forward shows it: the hidden
states that enter the layer above the edited one are compared with those of the first forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._inputs import Inputs
from ._window import Window, last_true

TRIES = 3
"""The number of forwards after which a row without a change counts as a row without a vector."""


class WindowSearch:
    """Finds the window of a loop's forwards."""

    def __init__(self) -> None:
        self.window: Window | None = None
        """The window around all tokens that change or are read. None if it is not known yet, or if
        it would be the whole row."""
        self.strayed: Tensor | None = None
        """Whether the last forward's vector was at a token outside the window, a scalar. None if
        there was no window yet."""
        self.entry: Tensor | None = None
        """What entered the layer above in the first forward, [rows, tokens, size]."""
        self._read: Tensor | None = None
        self._tries = 0
        self._watched: Tensor | None = None
        self._gaining: Tensor | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a forward was compared with the first one."""
        return self._tries > 0

    def begin_forward(self, watched: Tensor | None, gaining: Tensor | None) -> None:
        """Prepare for a forward.

        Args:
            watched: for each of the first rows, a token whose attention is read, [prompts].
            gaining: the token of each row at which the vector is added, [rows], if it is known.
        """
        self.strayed, self._watched, self._gaining = None, watched, gaining

    def note_input(self, hidden: Any) -> None:
        """Store the hidden states that the layer above took in the first forward."""
        if isinstance(hidden, Tensor) and hidden.dim() == 3:
            self.entry = hidden.detach()

    def note_output(self, given: Any) -> None:
        """Find the tokens that the loss depends on, by the gradient of what the layer above gave.

        Args:
            given: the hidden states that the layer above gave in the first forward.
        """

        def note(gradient: Tensor) -> None:
            read = (gradient != 0).any(-1)
            self._read = read if self._read is None else self._read | read

        if isinstance(given, Tensor) and given.requires_grad and given.dim() == 3:
            given.register_hook(note)  # type: ignore[no-untyped-call]

    def kept(self) -> list[Tensor]:
        """Return the stored tensors that later forwards use."""
        return [] if self.entry is None else [self.entry]

    def look(self, hidden: Tensor, inputs: Inputs) -> None:
        """Find the window. If there is one, check that the vector is still inside it.

        Args:
            hidden: the hidden states that enter the layer above now.
            inputs: the arguments of the forwards.
        """
        assert self.entry is not None
        now, before = hidden.detach(), self.entry
        if self.window is None:
            if self._tries <= TRIES:
                differs = (now != before) & ~(now.isnan() & before.isnan())
                self.window = self._found(differs, inputs)
            return
        # Ignore rounding, which may differ from run to run on some devices.
        moved = (now - before).abs().amax(-1) > 0.01 * before.abs().amax(-1)
        self.strayed = (moved & self.window.outside(moved.device)).any()

    def _found(self, differs: Tensor, inputs: Inputs) -> Window | None:
        """Return the window, or None; see ``window``.

        Args:
            differs: which numbers differ from those of the first forward, [rows, tokens, size].
            inputs: the arguments of the forwards.
        """
        rows, tokens, _ = differs.shape
        changed = differs.any(-1)
        if self._gaining is not None:
            changed.scatter_(1, self._gaining.to(changed.device).unsqueeze(1), True)
        real = inputs.real(rows, tokens, changed.device)
        read = torch.zeros_like(changed) if self._read is None else self._read.to(changed.device)
        watched = torch.zeros_like(changed)
        if self._watched is not None:
            position = self._watched.to(changed.device).unsqueeze(1)
            watched[: len(position)].scatter_(1, position, True)
        table: list[Any] = torch.stack(
            [changed, changed | watched, changed | watched | real | read]
        ).tolist()
        self._tries += 1
        if not all(map(any, table[0])) and self._tries < TRIES:
            return None
        spans = []
        for _, begins, needed in zip(*table, strict=True):
            first = begins.index(True) if any(begins) else tokens
            end = last_true(needed, default=tokens - 1) + 1
            spans.append((min(first, end), end))
        window = Window.around(spans, tokens)
        self._tries = TRIES + 1
        return window if window.size < tokens else None

    def forget(self) -> None:
        """Release the tensors that were stored."""
        self.entry = self._read = self.window = None
