"""The editor of an evaluation, and helpers that observe it."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ConfigError, EvaluationError
from ..events import Report
from ._records import Record
from ._weights import UneditedWeights

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor, nn


@dataclass(frozen=True)
class Dimension:
    """The values of a setting in a search.

    Attributes:
        low: the smallest value.
        high: the largest value.
        log: whether the search uses a logarithmic scale.
        choices: the only values, instead of a range.
    """

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: Sequence[Any] | None = None


class Editor(ABC):
    """A toolkit's editor with a model, as an evaluation uses it.

    Attributes:
        model: the model. It is edited in place.
        tokenizer: its tokenizer.
        layer: the layer after which attention can drift.
        layer_template: the path of the layers, such as ``"model.layers.{}"``.
        weights: the names of the parameters that edits change, as in ``named_parameters``. The
            evaluation stores and restores them.
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
        """Write the records' edits into the model, in one call of the toolkit.

        Args:
            records: the records to edit. Exactly one if ``takes_batches`` is False.
            sadr: SADR's settings, as under ``sadr:`` in an hparams file. None for no SADR.
        """

    # Only ``sadr tune`` uses the following methods.

    def search_space(self) -> Mapping[str, Dimension]:
        """Return the editor's own settings that may be searched, by name. Default: none."""
        return {}

    def prepare(  # noqa: B027
        self, layers: Sequence[int], corpus: Sequence[str], progress: Progress
    ) -> None:
        """Prepare what edits at these layers need, such as layer statistics of a text.

        Args:
            layers: the last edited layer of each setting to prepare.
            corpus: the text, as ``--corpus`` names it.
            progress: shows the progress.
        """

    def settings(self) -> dict[str, Any]:
        """Return the current values of the settings in `search_space`."""
        return {}

    def remarks(self) -> list[str]:
        """Return warnings about the editor's current settings. Default: none."""
        return []

    def as_hparams(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Turn settings of `search_space` into keys and values of an hparams file."""
        return dict(settings)

    def configured(self, settings: Mapping[str, Any]) -> Editor:
        """Return an editor of the same model with other settings from `search_space`.

        Raises:
            ConfigError: the editor has no such settings.
        """
        if settings:
            raise ConfigError(
                f"{type(self).__name__} has no settings {', '.join(settings)}; to have settings, "
                "an editor needs its own method configured"
            )
        return self

    # Only editors that remember earlier edits, such as AlphaEdit, need the following methods.

    def reset(self) -> None:  # noqa: B027
        """Forget earlier edits. It is called when the unedited weights are in place."""

    def state(self) -> dict[str, Tensor]:
        """Return what the editor remembers of earlier edits, to continue in another process."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restore what `state` returned."""


@contextlib.contextmanager
def counted_steps(
    model: nn.Module, on_step: Callable[[int], None] = lambda steps: None
) -> Iterator[Callable[[], int]]:
    """Count the forwards with gradients. An editor's loop runs one in each step.

    Args:
        model: the model that is edited.
        on_step: called with the number at each step.

    Yields:
        A function that returns the number so far.
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
    """Edit the model for the length of a ``with`` block, and undo the edits afterwards.

    Raises:
        EvaluationError: the edits cannot be undone; see `take_back`.
    """
    try:
        editor.edit(records, sadr)
        yield
    finally:
        take_back(editor, unedited)


def sadr_acted(
    editor: Editor, sadr: Mapping[str, Any] | None, found: Sequence[Report]
) -> bool | None:
    """Return whether SADR acted on an edit, and check that this was at the editor's layer.

    Args:
        editor: the editor.
        sadr: SADR's settings of the edit.
        found: the reports of the edit.

    Returns:
        None for an edit without SADR.

    Raises:
        EvaluationError: SADR acted at another layer.
    """
    for report in found:
        if report.layer != editor.layer:
            raise EvaluationError(
                f"Editor.layer is {editor.layer}, but SADR's report of the edit names layer "
                f"{report.layer}; set Editor.layer to the layer of the declaration's Edit, because "
                "the evaluation measures the drift after it"
            )
    return None if sadr is None else bool(found)


def take_back(editor: Editor, unedited: UneditedWeights) -> None:
    """Restore the unedited model, and make the editor forget its edits.

    Raises:
        EvaluationError: the edits changed weights that the editor does not name, or the edits
            cannot be undone for another reason.
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
        raise EvaluationError(f"an edit could not be undone: {why}") from error
