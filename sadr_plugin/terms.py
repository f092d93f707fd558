"""Terms of an edit's loss: what a plugin gives, and what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .adapter import Edit, Prompt

if TYPE_CHECKING:
    from pluggy import HookRelay
    from torch import Tensor


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
class Positions:
    """The positions to read in each row of a batch. All indices count padding, as the model does.

    Attributes:
        prediction: index of the last token before the target, [prompts].
        subject: index of the edited token, usually the subject's last one, [prompts].
    """

    prediction: Tensor
    subject: Tensor


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


class OtherPrompts(Protocol):
    """Prompts of a term, with the edit's subject in each; see `RunningEdit.replay`.

    Attributes:
        rows: the prompt of each token that is read, [read].
    """

    rows: Tensor

    def before(self) -> Tensor:
        """Return the logits without the edit, [read, vocabulary], without gradient."""

    def now(self) -> Tensor:
        """Return the logits with the vector of this step, [read, vocabulary].

        They have a gradient to the vector.
        """


class RunningEdit(Protocol):
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

    edit: Edit
    editor: str
    gamma: float
    hooks: HookRelay
    step: int
    rows: Rows
    labels: Tensor | None
    selected: Tensor

    @property
    def vector_is_zero(self) -> bool:
        """Whether the loop's vector is still zero."""

    def prompt(self) -> Prompt:
        """Return the rewriting prompt without a context before it, which is the shortest one.

        Call it once the loop runs.
        """

    def replay(
        self, prompts: Sequence[Prompt], read_from: Sequence[int] | None = None
    ) -> OtherPrompts:
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

    def unedited(self) -> AbstractContextManager[None]:
        """Run the model without the loop's vectors inside a ``with`` block."""
