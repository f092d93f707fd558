"""A model's unedited weights: copies of those that edits change, hashes of all tensors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ChangedModelError, EvaluationError

if TYPE_CHECKING:
    from torch import Tensor, nn


class UneditedWeights:
    """The unedited state of a model, to restore and check it after edits.

    It needs memory for a copy of the named weights, on their own device, and for a hash of each
    tensor.

    Args:
        model: the model before any edit.
        edited: the names of the parameters that edits change.

    Raises:
        EvaluationError: a parameter does not exist, or accelerate has offloaded it, so that no edit
            could change it.
    """

    def __init__(self, model: nn.Module, edited: Sequence[str]) -> None:
        self._model = model
        tensors = _tensors(model)
        self._own = {name: _editable(tensors, name) for name in edited}
        self._kept = {name: tensor.detach().clone() for name, tensor in self._own.items()}
        self._hashes = {name: self._hash(name, tensor) for name, tensor in tensors.items()}
        self._marks = _marks(tensors)

    def restore(self) -> None:
        """Restore the edited weights, and check bit by bit everything that was touched.

        Raises:
            ChangedModelError: something else was changed.
        """
        with torch.no_grad():
            for name, weight in self._kept.items():
                module, _, leaf = name.rpartition(".")
                parent = self._model.get_submodule(module)
                if getattr(parent, leaf) is not self._own[name]:
                    setattr(parent, leaf, self._own[name])
                self._own[name].copy_(weight)
        marks = _marks(_tensors(self._model))
        self._expect({name for name, mark in marks.items() if mark != self._marks.get(name)})
        self._marks = marks

    def check(self) -> None:
        """Check bit by bit that the whole model is as it was.

        Raises:
            ChangedModelError: it is not.
        """
        self._expect(set(self._hashes))

    @torch.no_grad()
    def changed(self, since: Mapping[str, Tensor] | None = None) -> bool:
        """Whether any edited weight has changed.

        Args:
            since: the values that `edited` returned. None for the unedited ones.
        """
        tensors = _tensors(self._model)
        before = self._kept if since is None else since
        return any(
            not torch.equal(tensors[name].to(weight.device), weight)
            for name, weight in before.items()
        )

    @torch.no_grad()
    def changes(self) -> dict[str, float]:
        """Return the change of each edited weight, by name.

        It is the Frobenius norm of the change as a share of the weight's own norm. For a weight
        that was zero, it is 0 without a change and infinite with one.
        """
        tensors = _tensors(self._model)
        found = {}
        for name, weight in self._kept.items():
            change, own = _norm(tensors[name].double() - weight.double()), _norm(weight.double())
            found[name] = change / own if own else (math.inf if change else 0.0)
        return found

    def edited(self) -> dict[str, Tensor]:
        """Return a copy of the edited weights as they are now, in CPU memory."""
        tensors = _tensors(self._model)
        return {name: tensors[name].detach().to("cpu", copy=True) for name in self._kept}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Set the edited weights to the values that `edited` returned."""
        tensors = _tensors(self._model)
        with torch.no_grad():
            for name in self._kept:
                tensors[name].copy_(weights[name])

    def _expect(self, names: AbstractSet[str]) -> None:
        tensors = _tensors(self._model)
        strange = tensors.keys() ^ self._hashes.keys()
        changed = strange | {
            name
            for name in names - strange
            if self._hash(name, tensors[name]) != self._hashes[name]
        }
        if changed:
            first, more = min(changed), len(changed) - 1
            raise ChangedModelError(
                "after an edit was undone, these parts of the model differ from before: "
                f"{first}{f', and {more} more' if more else ''}; the editor has to name all "
                "weights that it changes"
            )

    def _hash(self, name: str, tensor: Tensor) -> bytes:
        if tensor.is_meta:
            tensor = _offloaded(self._model, name)
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return hashlib.blake2b(content.numpy().data, digest_size=16).digest()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _editable(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise EvaluationError(f"the model has no parameter {name}, which its editor rewrites")
    if tensors[name].is_meta:
        raise EvaluationError(
            f"{name} is offloaded, so no edit can change it; have the edited layers on a device "
            "(device_map)"
        )
    return tensors[name]


def _marks(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Return marks that change if a tensor is written in place or its memory is replaced.

    Offloaded tensors are replaced at every forward. `UneditedWeights.check` checks them.
    """
    return {
        name: (0, 0) if tensor.is_meta else (tensor.data_ptr(), tensor._version)
        for name, tensor in tensors.items()
    }


def _norm(tensor: Tensor) -> float:
    norm: float = torch.linalg.vector_norm(tensor).item()
    return norm


def _offloaded(model: nn.Module, name: str) -> Tensor:
    """Return a tensor that accelerate holds for a module, in memory or on disk.

    Raises:
        EvaluationError: accelerate does not hold it.
    """
    path = name.split(".")
    for depth in range(len(path) - 1, -1, -1):
        hook = getattr(model.get_submodule(".".join(path[:depth])), "_hf_hook", None)
        for one in (hook, *getattr(hook, "hooks", ())):
            held: Any = getattr(one, "weights_map", None)
            own = ".".join(path[depth:])
            if held is not None and own in held:
                tensor: Tensor = held[own]
                return tensor
    raise EvaluationError(f"{name} is on no device, and accelerate does not hold it either")
