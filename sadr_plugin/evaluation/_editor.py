"""What an evaluation edits with, and what is seen of it from outside."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ConfigError, EvaluationError
from ._records import Record
from ._weights import UneditedWeights

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor, nn


@dataclass(frozen=True)
class Dimension:
    """The values that a setting may take while settings are searched.

    Attributes:
        low: the least.
        high: the greatest.
        log: whether factors count, not differences.
        choices: the only values, in place of a range.
    """

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: Sequence[Any] | None = None


class Editor(ABC):
    """A toolkit's editor and a model, as an evaluation uses them.

    Attributes:
        model: the model, which is edited in place.
        tokenizer: its tokenizer.
        layer: the layer after which attention can drift.
        layer_template: where the layers are, e.g. ``"model.layers.{}"``.
        weights: the names of the parameters that edits change, as ``named_parameters`` has them.
            The evaluation keeps and restores them.
        takes_batches: whether `edit` takes more than one record.
    """

    model: nn.Module
    tokenizer: Any
    layer: int
    layer_template: str
    weights: Sequence[str]
    takes_batches: bool = True

    @abstractmethod
    def edit(self, records: Sequence[Record], sadr: Mapping[str, Any] | None) -> None:
        """Write the records' edits into the model, in one call of the toolkit's.

        Args:
            records: what to edit; one of them, if `takes_batches` is false.
            sadr: SADR's settings, as under ``sadr:`` in an hparams file; None for none.
        """

    # What follows matters only to ``sadr tune``.

    def search_space(self) -> Mapping[str, Dimension]:
        """The editor's own settings that may be searched, by name; none."""
        return {}

    def prepare(  # noqa: B027
        self, layers: Sequence[int], corpus: Sequence[str], progress: Progress
    ) -> None:
        """Make ready what edits at these layers need, such as layer statistics of a text.

        Args:
            layers: each the last of the edited layers.
            corpus: as ``--corpus`` names the text.
            progress: shows how far it is.
        """

    def settings(self) -> dict[str, Any]:
        """The values that the settings of `search_space` have now."""
        return {}

    def remarks(self) -> list[str]:
        """What speaks against the editor as it is set, in words; nothing."""
        return []

    def as_hparams(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of `search_space`, as the keys and values of an hparams file."""
        return dict(settings)

    def configured(self, settings: Mapping[str, Any]) -> Editor:
        """An editor of the same model with other settings, those of `search_space`.

        Raises:
            ConfigError: the editor has no such settings.
        """
        if settings:
            raise ConfigError(f"{type(self).__name__} has no settings {', '.join(settings)}")
        return self

    # What follows matters only to editors that remember earlier edits, as AlphaEdit does.

    def reset(self) -> None:  # noqa: B027
        """Forget earlier edits; called with the unedited weights in place."""

    def state(self) -> dict[str, Tensor]:
        """What is remembered of earlier edits, so that a sequence can go on in another process."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Remember what `state` gave."""


@contextlib.contextmanager
def counted_steps(
    model: nn.Module, on_step: Callable[[int], None] = lambda steps: None
) -> Iterator[Callable[[], int]]:
    """Count the forwards that carry gradients: one for each step of an editor's loop.

    Args:
        model: the model that is edited.
        on_step: told the number at each step.

    Yields:
        A function that gives the number so far.
    """
    count = 0

    def forward(*_: object) -> None:
        nonlocal count
        if torch.is_grad_enabled():
            count += 1
            on_step(count)

    hook = model.register_forward_pre_hook(forward)
    try:
        yield lambda: count
    finally:
        hook.remove()


@contextlib.contextmanager
def edited(
    editor: Editor,
    unedited: UneditedWeights,
    records: Sequence[Record],
    sadr: Mapping[str, Any] | None,
) -> Iterator[None]:
    """The editor's model with the records' edits in it, and the unedited one again afterwards.

    Raises:
        EvaluationError: afterwards, as `take_back` does.
    """
    try:
        editor.edit(records, sadr)
        yield
    finally:
        take_back(editor, unedited)


def take_back(editor: Editor, unedited: UneditedWeights) -> None:
    """Have the unedited model again, and an editor that remembers no edit.

    Raises:
        EvaluationError: the edits changed what the editor does not name, or the like.
    """
    try:
        try:
            unedited.restore()
        finally:
            editor.reset()
    except EvaluationError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise EvaluationError(f"an edit could not be taken back: {why}") from error
