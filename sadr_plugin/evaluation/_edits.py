"""Make edits, watch them, and take them back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..editor import Editor, Record
from ..errors import EvaluationError
from ..events import Report
from ._weights import UneditedWeights

if TYPE_CHECKING:
    from torch import nn


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
