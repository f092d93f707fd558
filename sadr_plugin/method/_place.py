"""Whether an editor adds its vector in the layer and at the token that its adapter says.

The first forward of the loop shows the layer. The vector carries a gradient, so what the edited
layer gives carries one, and what it takes does not. The next forward shows the token. It is the one
at which the input of the layer above has changed most.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .._threads import hook_here
from ..adapter import Edit, EditPoint
from ..attention._layers import layer_modules
from ..errors import AttachmentError
from ..reuse._arguments import hidden_in
from ..reuse._conditions import is_hooked

SHARE = 0.5
"""A token at which a row changes by this share of its largest change counts as edited, too."""


class VectorPlace:
    """Looks for the layer and the token of the vector, at the layer that the adapter says.

    Args:
        point: the editor's declaration, for errors.
        edit: gives the model and the layer. A layer has to follow it.
    """

    def __init__(self, point: EditPoint, edit: Edit) -> None:
        self._editor = point.editor
        self._edit = edit
        layers = layer_modules(edit.model, edit.layer_template)
        self._edited, self._next = layers[edit.layer], layers[edit.layer + 1]
        # If one module stands for several layers, its hook runs both before and after the vector is
        # added, so it shows nothing.
        self._are_single = layers.count(self._edited) == layers.count(self._next) == 1
        self._taken: bool | None = None
        self._given: bool | None = None
        self._first: Tensor | None = None
        self.moved: Tensor | None = None
        """How far each token has moved from the first forward to the last, [rows, tokens].

        None if it cannot be told yet."""

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch one forward of the loop inside a ``with`` block."""
        self._taken = self._given = self.moved = None

        def taken(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._taken = _carries_gradient(args, kwargs)
            first.remove()

        def given(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._given = _carries_gradient(args, kwargs)
            self._note(hidden_in(args, kwargs))
            second.remove()

        # Both hooks see what a layer takes, because a toolkit may add its vector between two
        # layers. They remove themselves, because a layer with a hook may have to run in full.
        first = self._edited.register_forward_pre_hook(hook_here(taken), with_kwargs=True)
        second = self._next.register_forward_pre_hook(hook_here(given), with_kwargs=True)
        try:
            yield
        finally:
            first.remove()
            second.remove()

    def _note(self, hidden: Any) -> None:
        if not self._are_single or not isinstance(hidden, Tensor) or hidden.dim() != 3:
            return
        if self._first is None:
            self._first = hidden.detach().clone()  # a layer may write into its input
        elif self._first.shape == hidden.shape:
            self.moved = (hidden.detach() - self._first).float().norm(dim=-1)

    def astray(self, token: Tensor) -> Tensor | None:
        """Return whether the vector is at other tokens than these, a boolean for each prompt.

        Args:
            token: the token of each prompt at which the vector should be, [prompts].

        Returns:
            [prompts]. None if it cannot be told by the last forward that was watched.
        """
        if self.moved is None:
            return None
        moved = self.moved[: len(token)]
        here = moved.gather(1, token.to(moved.device).unsqueeze(1)).squeeze(1)
        return here < SHARE * moved.amax(1)

    def forget(self) -> None:
        """Release the tensors that were stored."""
        self._first = self.moved = None

    def check(self) -> None:
        """Check the layer by the last forward that was watched.

        Raises:
            AttachmentError: the vector is added above the edited layer or below it.
        """
        if not self._are_single:
            return
        if self._given is False:
            raise AttachmentError(self._elsewhere("above"))
        if self._taken and self._only_the_vector_has_a_gradient():
            raise AttachmentError(self._elsewhere("below"))

    def _elsewhere(self, side: str) -> str:
        return (
            f"the vector of {self._editor} is added {side} layer {self._edit.layer}, which is the "
            "edited layer by its adapter; correct the layer of the Edit that the adapter reads"
        )

    def _only_the_vector_has_a_gradient(self) -> bool:
        model = self._edit.model
        embeddings: Any = getattr(model, "get_input_embeddings", lambda: None)()
        # Hooks of PEFT on the embeddings make what they give require a gradient.
        is_free = isinstance(embeddings, nn.Module) and not is_hooked(embeddings)
        return is_free and not any(parameter.requires_grad for parameter in model.parameters())


def _carries_gradient(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool | None:
    """Whether the hidden states that a layer takes carry a gradient. None if it cannot be told."""
    hidden = hidden_in(args, kwargs)
    # Gradient checkpointing runs layers without gradients at first.
    if not isinstance(hidden, Tensor) or not torch.is_grad_enabled():
        return None
    return hidden.requires_grad
