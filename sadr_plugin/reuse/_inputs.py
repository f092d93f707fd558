"""The arguments of a forward, stored to see whether later forwards have the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Inputs:
    """The arguments of a forward, to compare with those of later forwards.

    Args:
        given: the arguments by name.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = dict(given)
        self._versions = {
            name: value._version for name, value in given.items() if isinstance(value, Tensor)
        }

    def are(self, given: Mapping[str, Any]) -> bool:
        """Whether ``given`` equals the stored arguments.

        It reads from the device only if a tensor is another object than before.
        """
        if given.keys() != self._given.keys():
            return False
        return all(self._is(name, value) for name, value in given.items())

    def _is(self, name: str, value: Any) -> bool:
        known = self._given[name]
        if not isinstance(known, Tensor) or not isinstance(value, Tensor):
            # For other objects, == may mean anything.
            plain = isinstance(value, (bool, int, float, str, type(None)))
            return value is known or (plain and type(value) is type(known) and value == known)
        if known._version != self._versions[name]:
            return False  # changed in place since then, so the old value is unknown
        if value is known:
            return True
        alike = value.shape == known.shape and value.device == known.device
        return alike and torch.equal(value, known)

    def real(self, rows: int, tokens: int, device: torch.device) -> Tensor:
        """Return which tokens are not padding by the attention mask, [rows, tokens]."""
        mask = self._given.get("attention_mask")
        if isinstance(mask, Tensor) and mask.shape == (rows, tokens):
            return mask.to(device) != 0
        return torch.ones(rows, tokens, dtype=torch.bool, device=device)
