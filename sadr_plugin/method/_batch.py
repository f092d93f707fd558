"""The batch of an edit's loop: which forwards belong to the loop, and which positions matter."""

from __future__ import annotations

import warnings

from torch import Tensor

from ..adapter import Edit, EditPoint
from ..attention._positions import locate, prompt_tokens
from ..errors import SadrError, UnsupportedModelError
from ..reuse._inputs import Inputs
from ..terms import Positions
from ._stopping import Target, labels_behind


class LoopBatch:
    """What is known about an edit's batch.

    It is found once, because a loop runs the same batch in every step.

    Args:
        point: the editor's declaration.
        edit: what is edited.
        needs_target: whether it is an error if the target cannot be found.

    Raises:
        PositionError: the subject's tokens cannot be found.
    """

    def __init__(self, point: EditPoint, edit: Edit, needs_target: bool) -> None:
        self._point = point
        self._edit = edit
        self._needs_target = needs_target
        # Find the prompt tokens now, if possible, so that errors come before the first step.
        self._prompts = [] if callable(edit.prompts) else prompt_tokens(edit)
        self._input_ids: Tensor | None = None
        self._known: Inputs | None = None
        self._edited = 0
        self._positions: Positions | None = None
        self._labels: Tensor | None = None
        self._target: Target | None = None
        self._last_seen: tuple[Tensor, Tensor | None] | None = None
        self._has_warned = False

    def positions(self, input_ids: Tensor, attention_mask: Tensor | None) -> Positions | None:
        """Find the positions in a forward's batch.

        Args:
            input_ids: the batch, [rows, tokens].
            attention_mask: 1 for a real token and 0 for padding, [rows, tokens], or None.

        Returns:
            Positions on the device of ``input_ids``. None if the batch is not the loop's own.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self._known is not None and self._known.are(given):
            return self._positions
        if not self._prompts:
            self._prompts = prompt_tokens(self._edit)
        positions = locate(self._prompts, input_ids, attention_mask)
        if positions is None:
            self._last_seen = input_ids, attention_mask
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
        """Return a row of the batch, and the token of it to which the toolkit adds its vector.

        Call this only after a forward was recognised.
        """
        return 0, self._edited

    def target(
        self, labels: Tensor | None, logits: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return how the target stands, see `Target.standing`. None if it is not known.

        Args:
            labels: the loop's own labels, if it shows them; see `EditPoint.labels`.
            logits: the logits of the loop's last forward.
        """
        if labels is None and self._edit.target is None:
            return None, None
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
            return self._target.standing(logits)
        except SadrError:
            if self._needs_target:
                raise
            return None, None  # only logs and reports would have used the target

    def unrecognised(self) -> str:
        """Return the error message for a loop without a recognised forward."""
        loop = f"no forward of the {self._point.editor} loop could be recognised"
        if self._last_seen is None:
            return f"{loop}: it made no call of the model with input_ids and gradients"
        ids, mask = self._last_seen
        if ids.dim() != 2 or len(ids) < len(self._prompts):
            return (
                f"{loop}: the edit has {len(self._prompts)} prompts, and the last batch was of the "
                f"shape {tuple(ids.shape)}"
            )
        row = next(
            row
            for row, prompt in enumerate(self._prompts)
            if locate([prompt], ids[row:], None if mask is None else mask[row:]) is None
        )
        expected = self._prompts[row].prompt
        return (
            f"{loop}: row {row} of its batch should begin with {expected.text!r}, with the subject "
            f"{expected.subject!r} tokenized as it is in that prompt alone; in the last batch it "
            f"was {self._edit.tokenizer.decode(ids[row])!r}"
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
            self._has_warned = True
            warnings.warn(
                f"{self._point.editor} counts positions from the left, but its batch is padded on "
                "the left: it edits a wrong token. SADR watches the token that was meant; set "
                'tokenizer.padding_side = "right" so that both agree',
                stacklevel=2,
            )

    def warn_of_another_token(self, astray: Tensor, moved: Tensor) -> None:
        """Warn, once, that the editor adds its vector at another token than the watched one.

        Args:
            astray: for which prompts it does, [prompts].
            moved: how far the vector has moved each token, [rows, tokens].
        """
        if self._has_warned:
            return
        self._has_warned = True
        assert self._input_ids is not None
        assert self._positions is not None
        row = int(astray.nonzero()[0])
        edited, watched = int(moved[row].argmax()), int(self._positions.subject[row])
        ids, prompt = self._input_ids[row].tolist(), self._prompts[row].prompt
        names = [self._edit.tokenizer.decode([ids[token]]) for token in (edited, watched)]
        warnings.warn(
            f"SADR: in {prompt.text!r}, {self._point.editor} adds its vector at the token "
            f"{names[0]!r} (number {edited}), and SADR watches {names[1]!r} (number {watched}), "
            f"the edited token of the subject {prompt.subject!r}: both count tokens in different "
            "ways. SADR selects heads by their attention to a token that is not edited; write the "
            "subject without blanks at its ends, and so that it ends where a word ends",
            stacklevel=2,
        )
