"""An edit while its loop runs, as plugins see it that add terms to the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pluggy import HookRelay
from torch import Tensor

from ..adapter import Edit, EditPoint, Prompt
from ..attention._positions import Positions
from ..errors import AttachmentError
from ..replay._replay import Replay
from ..replay._vectors import Vectors
from ..reuse._reuse import Reuse


@runtime_checkable
class LossTerm(Protocol):
    """A term of an edit's loss, as the hook `sadr_loss_terms` returns it.

    Attributes:
        name: the name in reports and logs, and the key under ``sadr.terms``.
        weight: the factor of the value in the loss, at least 0. A term of weight 0 is computed
            without gradients and reported.
    """

    name: str
    weight: float

    def value(self) -> Tensor:
        """Return the term at this step, before its weight.

        It is called at each step, after the loop has computed its own loss.

        Returns:
            A scalar with a gradient to the vector.
        """


@dataclass(frozen=True)
class Rows:
    """The loop's attention rows at a step.

    Attributes:
        baseline: the rows at zero vector, [layers, prompts, heads, tokens]. None at the first step
            of a loop that starts from zero: the rows of that step become the baseline.
        current: the rows now, the same shape.
        positions: the subject's token and the prediction position of each prompt.
    """

    baseline: Tensor | None
    current: Tensor
    positions: Positions


class RunningEdit:
    """An edit while its loop runs.

    Attributes:
        edit: what is edited. `Edit.prompts` may be a function that cannot be called before the
            first step.
        editor: the editor's name.
        gamma: the editor's own weight for SADR's term.
        hooks: the hooks of the plugin manager, to ask what other plugins answer.
        step: the index of this step, from 0.
        rows: the loop's attention rows at this step.
        labels: the loop's own labels at this step, [prompts, tokens]; see `EditPoint.labels`. None
            if the adapter names none.
        selected: the share of (layer, prompt, head) triples that SADR's term restricts. SADR's term
            sets it.
    """

    rows: Rows
    labels: Tensor | None
    selected: Tensor

    def __init__(
        self,
        point: EditPoint,
        edit: Edit,
        hooks: HookRelay,
        vectors: Vectors,
        reuse: Callable[[], Reuse] | None,
    ) -> None:
        self.edit = edit
        self.editor = point.editor
        self.gamma = point.gamma
        self.hooks = hooks
        self.step = 0
        self._vectors = vectors
        self._reuse = reuse

    if not TYPE_CHECKING:  # a type checker would then accept any name

        def __getattr__(self, name: str) -> Any:
            """Say why what a step sets is not there."""
            if name in RunningEdit.__annotations__:
                raise AttachmentError(
                    f"running.{name} is there only while a step is computed; read it in the "
                    "value() of a term"
                )
            raise AttributeError(f"a RunningEdit has no attribute {name!r}")

    @property
    def vector_is_zero(self) -> bool:
        """Whether the loop's vector is still zero."""
        return self.step == 0 and self.edit.zero_start

    def prompt(self) -> Prompt:
        """Return the rewriting prompt without a context before it, which is the shortest one.

        Call it once the loop runs.
        """
        return min(self.edit.rewriting_prompts(), key=lambda prompt: len(prompt.text))

    def replay(self, prompts: Sequence[Prompt], read_from: Sequence[int] | None = None) -> Replay:
        """Prepare other prompts, to run without the edit's vector and with it.

        Call it in `LossTerm.value`.

        Args:
            prompts: texts with the subject in them. The vector is added at the subject's token of
                each, as the loop adds it to its own prompts.
            read_from: for each prompt, the character of its text from which on tokens are
                predicted. None reads every token from the edited one on.

        Raises:
            AttachmentError: the arguments have wrong types, or a number is outside its prompt.
            PositionError: there are no prompts, or the subject's tokens cannot be found.
            UnsupportedLoopError: the editor adds its vector without a forward hook.
        """
        self._vectors.expect()
        return Replay(self.edit, self._vectors, self._reuse, prompts, read_from)

    def unedited(self) -> AbstractContextManager[None]:
        """Run the model without the loop's vectors inside a ``with`` block."""
        return self._vectors.absent()
