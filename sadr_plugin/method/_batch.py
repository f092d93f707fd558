"""The batch a loop runs: which forwards are the loop's own, and where to look in them."""

from __future__ import annotations

import warnings

from torch import Tensor

from ..adapter import Edit, EditPoint
from ..attention._positions import Positions, locate, prompt_tokens
from ..errors import SadrError, UnsupportedModelError
from ..reuse._conditions import Inputs
from ._stopping import Target, labels_behind


class LoopBatch:
    """What is known of an edit's batch; found out once, as a loop runs the same in every step.

    Args:
        point: the editor's declaration.
        edit: what is edited.
        needs_target: whether a target that cannot be told is an error.

    Raises:
        PositionError: the subject's tokens cannot be found.
    """

    def __init__(self, point: EditPoint, edit: Edit, needs_target: bool) -> None:
        self._point = point
        self._edit = edit
        self._needs_target = needs_target
        # What can be known of the prompts before the loop runs is found out now.
        self._prompts = [] if callable(edit.prompts) else prompt_tokens(edit)
        self._input_ids: Tensor | None = None
        self._known: Inputs | None = None
        self._edited = 0
        self._positions: Positions | None = None
        self._labels: Tensor | None = None
        self._target: Target | None = None
        self._last_seen = "none with gradients"

    def positions(self, input_ids: Tensor, attention_mask: Tensor | None) -> Positions | None:
        """Where to look in a forward's batch, or None if it is not the loop's own.

        Returns:
            Positions on the device of ``input_ids``.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._known is not None and self._known.are(given):
            return self._positions
        if not self._prompts:
            self._prompts = prompt_tokens(self._edit)
        positions = locate(self._prompts, input_ids, attention_mask)
        if positions is None:
            self._last_seen = repr(self._edit.tokenizer.decode(input_ids[0]))
            return None
        if self._positions is None and self._edit.counts_from_left:
            self._warn_of_padding(positions)
        first = self._prompts[0].edited
        self._edited = first if self._edit.counts_from_left else int(positions.subject[0])
        device = input_ids.device
        self._positions = Positions(positions.prediction.to(device), positions.subject.to(device))
        self._input_ids, self._known, self._labels = input_ids, Inputs(given), None
        return self._positions

    def edited_place(self) -> tuple[int, int]:
        """A row of the batch, and the token of it to which the toolkit adds its vector.

        To be asked once a forward was recognised.
        """
        return 0, self._edited

    def target(self, labels: Tensor | None, logits: Tensor | None) -> Tensor | None:
        """The target's probability, a scalar, 0 to 1; None where nothing tells it.

        Args:
            labels: the loop's own, if it shows them; see `EditPoint.labels`.
            logits: of its last forward.
        """
        if labels is None and self._edit.target is None:
            return None
        try:
            if logits is None:
                raise UnsupportedModelError(
                    f"sadr.stop_at: the forward of {type(self._edit.model).__name__} returns no "
                    "`logits`; remove the key"
                )
            if labels is None:
                labels = self._labels_behind()
            if self._target is None or not self._target.is_of(labels):
                self._target = Target(self._point, labels, logits)
            return self._target.probability(logits)
        except SadrError:
            if self._needs_target:
                raise
            return None  # it would only have been looked at

    def unrecognised(self) -> str:
        """What to say where no forward was the loop's own."""
        expected = self._prompts[0].prompt
        return (
            f"no forward of the {self._point.editor} loop could be recognised: its batch should "
            f"begin with {expected.text!r}, with the subject {expected.subject!r} tokenized as it "
            f"is in that prompt alone; the last batch began with {self._last_seen}"
        )

    def _labels_behind(self) -> Tensor:
        if self._labels is None:
            assert self._input_ids is not None
            assert self._positions is not None
            self._labels = labels_behind(
                self._edit, self._prompts, self._input_ids, self._positions
            )
        return self._labels

    def _warn_of_padding(self, positions: Positions) -> None:
        counted = [prompt.edited for prompt in self._prompts]
        if positions.subject.tolist() != counted:
            warnings.warn(
                f"{self._point.editor} counts positions from the left, but its batch is padded on "
                "the left: the token it edits is not the one it means. SADR watches the true "
                'positions; set tokenizer.padding_side = "right" to have both agree',
                stacklevel=2,
            )
