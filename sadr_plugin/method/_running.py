"""An edit while its loop runs, as the plugins see it that add terms to its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pluggy import HookRelay
from torch import Tensor

from ..adapter import Edit, EditPoint, Prompt
from ..attention._layers import layer_modules
from ..attention._positions import Positions
from ..replay._replay import Replay
from ..replay._vectors import Vectors
from ..reuse._reuse import Reuse


@runtime_checkable
class LossTerm(Protocol):
    """A term of an edit's loss, as a plugin's `sadr_loss_terms` gives it.

    Attributes:
        name: how reports and logs call it.
        weight: what its value is multiplied by. At 0 it is computed without gradients, and
            reported.
    """

    name: str
    weight: float

    def value(self) -> Tensor:
        """The term at this step, before its weight: a scalar with a gradient to the vector.

        Called at each step once the loop has computed its own loss.
        """


@dataclass(frozen=True)
class Rows:
    """The loop's attention rows at a step.

    Attributes:
        baseline: at zero vector, [layers, prompts, heads, tokens]; None at the first step of a
            loop whose vector is zero then: these rows will be the baseline.
        current: now, the same shape.
        positions: the subject's token and the prediction position of each prompt.
    """

    baseline: Tensor | None
    current: Tensor
    positions: Positions


class RunningEdit:
    """An edit while its loop runs.

    Attributes:
        edit: what is edited; `Edit.prompts` may be a function that cannot be called before the
            first step.
        editor: the editor's name.
        gamma: the editor's own weight for SADR's term.
        hooks: the plugin manager's.
        vectors: what the loop adds in the edited layer.
        step: the index of this step, from 0.
        rows: the loop's attention rows at this step.
        selected: the share of (layer, prompt, head) triples that SADR's term restricts; it sets
            this.
    """

    rows: Rows
    selected: Tensor

    def __init__(
        self, point: EditPoint, edit: Edit, hooks: HookRelay, reuse: Callable[[], Reuse] | None
    ) -> None:
        self.edit = edit
        self.editor = point.editor
        self.gamma = point.gamma
        self.hooks = hooks
        self.step = 0
        self._reuse = reuse
        layers = layer_modules(edit.model, edit.layer_template)
        self.vectors = Vectors(layers[edit.layer], point.editor)

    @property
    def vector_is_zero(self) -> bool:
        """Whether the loop has not moved its vector from zero yet."""
        return self.step == 0 and self.edit.zero_start

    def prompt(self) -> Prompt:
        """The rewriting prompt without a context before it: the shortest.

        May be called once the loop runs.
        """
        return min(self.edit.rewriting_prompts(), key=lambda prompt: len(prompt.text))

    def replay(self, prompts: Sequence[Prompt], read_from: Sequence[int] | None = None) -> Replay:
        """Other prompts, to run without the edit's vector and with it.

        To be called in `LossTerm.value`.

        Args:
            prompts: texts with the subject in them. The vector is added at the subject's token of
                each, as the loop adds it to its own.
            read_from: for each prompt the character of its text from which on tokens are
                predicted; None reads every token from the edited one on.

        Raises:
            PositionError: the subject's tokens cannot be found.
        """
        return Replay(self.edit, self.vectors, self._reuse, prompts, read_from)

    def unedited(self) -> AbstractContextManager[None]:
        """Inside the block the model runs as it is, whatever the loop's own hooks would do."""
        return self.vectors.absent()

    def forget(self) -> None:
        """Let go of what was seen."""
        self.vectors.forget()
        self.__dict__.pop("rows", None)
