"""How likely the edited model finds an edit's target, as the loop's own forward sees it.

The target's tokens are the loop's own where its function has them in a variable that the adapter
names (`EditPoint.labels`). Else they are what the tokenizer makes of the target behind the
prompt: alone, a tokenizer may give the target a first token it does not have there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..adapter import Edit, EditPoint
from ..attention._positions import Positions, PromptTokens, shared_length
from ..errors import AttachmentError, ConfigError, PositionError
from ..reuse._conditions import Inputs

IGNORED = -100
"""The label of a position that is to predict nothing, torch's own."""


def check_target(point: EditPoint, edit: Edit) -> None:
    """Raise `ConfigError` if nothing tells the target, so that ``stop_at`` would never stop."""
    if point.labels is None and edit.target is None:
        raise ConfigError(
            f"sadr.stop_at: the adapter of {point.editor} does not say what the edit's target is; "
            "remove the key, or give its EditPoint labels or its Edit a target"
        )


class Target:
    """An edit's target in the loop's batch: which of the logits tell its probability.

    Asks the device once, here; labels are the same object in every step of a loop.

    Args:
        point: names the labels, for the error.
        labels: [prompts, tokens]; see `EditPoint.labels`.
        logits: of the loop's forward, [rows, tokens, vocabulary].

    Raises:
        AttachmentError: the labels do not have the form that is declared.
    """

    def __init__(self, point: EditPoint, labels: Tensor, logits: Tensor) -> None:
        self._labels = Inputs({"labels": labels})
        shown = labels.cpu()
        fits = shown.dim() == 2 and shown.shape[1] == logits.shape[1] and len(shown) <= len(logits)
        if not fits or not (shown != IGNORED).any(1).all():
            raise AttachmentError(
                f"sadr.stop_at: {point.editor}'s variable {point.labels!r} of shape "
                f"{tuple(labels.shape)} holds no labels, one token or more in each row of "
                f"[prompts, tokens], for logits of shape {tuple(logits.shape)}; its adapter fits "
                "another version"
            )
        row, token = (shown != IGNORED).nonzero(as_tuple=True)
        index = torch.stack([row, token, shown[row, token]]).to(logits.device)
        self._row, self._token, self._id = index.unbind()
        self._lengths = (shown != IGNORED).sum(1).to(logits.device)

    def is_of(self, labels: Tensor) -> bool:
        """Whether it was made of these labels."""
        return self._labels.are({"labels": labels})

    def probability(self, logits: Tensor) -> Tensor:
        """How likely the target is after the rewriting prompts, a scalar, 0 to 1.

        The exponential of the mean log-probability of its tokens, averaged over the prompts:
        what EasyEdit prints at each step.

        Args:
            logits: of the loop's forward, [rows, tokens, vocabulary].
        """
        predicted = logits[self._row, self._token].detach().float().log_softmax(-1)
        found = predicted.gather(-1, self._id.unsqueeze(-1)).squeeze(-1)
        sums = found.new_zeros(len(self._lengths)).index_add(0, self._row, found)
        return (sums / self._lengths).exp().mean()


def labels_behind(
    edit: Edit, prompts: list[PromptTokens], input_ids: Tensor, positions: Positions
) -> Tensor:
    """The labels of a loop that does not show its own.

    Args:
        edit: says the target.
        prompts: the rewriting prompts.
        input_ids: the loop's batch, [rows, tokens]: each prompt with its target, of which the
            last token may be left out.
        positions: where the prompts end.

    Returns:
        [prompts, tokens]; see `EditPoint.labels`.

    Raises:
        ConfigError: the target has no tokens.
        PositionError: the batch does not have the target behind a prompt, or the two merge into
            one token.
    """
    labels = torch.full((len(prompts), input_ids.shape[1]), IGNORED)
    rows = zip(prompts, positions.prediction.tolist(), input_ids.tolist(), strict=False)
    for row, (prompt, start, tokens) in enumerate(rows):
        whole = edit.tokenizer(f"{prompt.prompt.text}{edit.target}")["input_ids"]
        if shared_length(prompt.ids, whole) < len(prompt.ids):
            raise PositionError(
                f"sadr.stop_at: behind {prompt.prompt.text!r} the target {edit.target!r} does not "
                "begin with a token of its own; does it lack its leading space?"
            )
        target = whole[len(prompt.ids) :]
        if not target:
            raise ConfigError(f"sadr.stop_at: the target {edit.target!r} has no tokens")
        given = tokens[start + 1 : start + len(target)]
        if given != target[:-1]:
            raise PositionError(
                f"sadr.stop_at: the tokens {target[:-1]} of the target were looked for after the "
                f"rewriting prompt, found {given}; remove the key for this edit"
            )
        labels[row, start : start + len(target)] = torch.tensor(target)
    return labels
