"""The tokens of each row of a batch that are computed again: a window of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Window:
    """``size`` tokens of each row. Each row has its own start.

    Args:
        start: the first token of the window in each row, [rows].
        size: the number of tokens in the window.
        tokens: the number of tokens in a whole row.
    """

    def __init__(self, start: Sequence[int], size: int, tokens: int) -> None:
        self._start = torch.tensor(start)
        self.size = size
        self.tokens = tokens
        self._inside: dict[torch.device, Tensor] = {}
        self._flat: dict[tuple[torch.device, int], Tensor] = {}

    @classmethod
    def around(cls, spans: Sequence[tuple[int, int]], tokens: int) -> Window:
        """Return the smallest window that holds a span of each row.

        Args:
            spans: the first token and the end (exclusive) of each row's span.
            tokens: the number of tokens in a whole row.
        """
        # Some kernels and models treat a query of one token as a special case.
        size = max(min(2, tokens), *(end - first for first, end in spans))
        return cls([max(0, min(first, end - size)) for first, end in spans], size, tokens)

    def start(self, device: torch.device) -> Tensor:
        """Return the first token of each row's window, [rows]."""
        return self.inside(device)[:, 0]

    def inside(self, device: torch.device) -> Tensor:
        """Return the indices of the window's tokens, [rows, size]."""
        if device not in self._inside:
            within = self._start.unsqueeze(1) + torch.arange(self.size)
            self._inside[device] = within.to(device)
        return self._inside[device]

    def outside(self, device: torch.device) -> Tensor:
        """Return whether each token is outside the window, [rows, tokens]."""
        inside = self.inside(device)
        every = torch.ones(len(inside), self.tokens, dtype=torch.bool, device=device)
        return every.scatter(1, inside, False)

    def cut(self, value: Tensor) -> Tensor:
        """Cut the window out of ``value``.

        Args:
            value: [rows or 1, tokens, …].

        Returns:
            [rows, size, …].
        """
        inside = self.inside(value.device)
        for_all = len(value) < len(inside)  # one row that applies to all rows
        index = inside.flatten() if for_all else self._flattened(value.device, 1)
        part = value.flatten(0, 1).index_select(0, index)
        return part.view(*inside.shape, *value.shape[2:])

    def cut_queries(self, mask: Tensor) -> Tensor:
        """Cut the window's queries out of a mask [rows or 1, heads or 1, tokens, tokens]."""
        inside = self.inside(mask.device)
        rows = torch.arange(len(mask), device=mask.device)
        return mask[rows.unsqueeze(1), :, inside].transpose(1, 2)

    def causal_mask(self, like: Tensor, additive: bool) -> Tensor:
        """Return the causal mask of the window's queries, [rows, 1, size, tokens].

        Args:
            like: gives the device, and the dtype of an additive mask.
            additive: True for 0 and the lowest number; False for true and false.
        """
        inside = self.inside(like.device)
        seen = torch.arange(self.tokens, device=like.device) <= inside.unsqueeze(-1)
        if additive:
            lowest = torch.finfo(like.dtype).min
            seen = torch.zeros_like(seen, dtype=like.dtype).masked_fill(~seen, lowest)
        return seen.unsqueeze(1)

    def paste(self, part: Tensor, whole: Tensor, by_head: bool = False) -> Tensor:
        """Return a copy of ``whole`` with ``part`` in the window.

        Args:
            part: [rows, size, …]; if ``by_head``, [rows, heads, size, …].
            whole: the same with ``tokens`` in place of ``size``. It is contiguous and has no
                gradient.
            by_head: whether the second dimension is the heads.
        """
        heads = whole.shape[1] if by_head else 1
        last = 2 if by_head else 1
        index = self._flattened(whole.device, heads)
        flat = whole.flatten(0, last).index_copy(0, index, part.flatten(0, last))
        return flat.view_as(whole)

    def _flattened(self, device: torch.device, heads: int) -> Tensor:
        """Return the window's indices in a batch with rows, heads and tokens as one dimension."""
        if (device, heads) not in self._flat:
            inside = self.inside(device)
            lines = torch.arange(len(inside) * heads, device=device).view(-1, heads, 1)
            self._flat[device, heads] = (lines * self.tokens + inside.unsqueeze(1)).flatten()
        return self._flat[device, heads]


def is_of_tokens(value: Any, rows: int, tokens: int) -> bool:
    """Whether ``value`` is a tensor [rows or 1, tokens, …]."""
    return (
        isinstance(value, Tensor)
        and value.dim() >= 2
        and value.shape[0] in (1, rows)
        and value.shape[1] == tokens
    )


def last_true(row: Sequence[bool], default: int) -> int:
    """Return the index of the last true value, or ``default`` if there is none."""
    return max((index for index, value in enumerate(row) if value), default=default)
