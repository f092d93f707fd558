"""The target's probability in the loop's own forward, for ``stop_at``.

If the loop has the target's tokens in a variable that the adapter names (`EditPoint.labels`), they
are read there. Otherwise the tokenizer gives them, from the prompt and the target together. From
the target alone, a tokenizer may give another first token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..adapter import Edit, EditPoint
from ..attention._inputs import added_at_end, without_end
from ..attention._positions import PromptTokens, shared_length
from ..errors import AttachmentError, ConfigError, PositionError
from ..reuse._inputs import Inputs
from ..terms import Positions

IGNORED = -100
"""The label of a position that predicts nothing, as in torch."""


def check_target(point: EditPoint, edit: Edit) -> None:
    """Check that the target is known, because ``stop_at`` would never stop without it.

    Raises:
        ConfigError: neither the declaration nor the edit gives the target.
    """
    if point.labels is None and edit.target is None:
        raise ConfigError(
            f"sadr.stop_at: the adapter of {point.editor} does not say what the edit's target is; "
            "remove the key, or give its EditPoint labels or its Edit a target"
        )


class Target:
    """The place of an edit's target in the loop's logits.

    Making it asks the device once. The labels are the same object in every step of a loop.

    Args:
        point: the editor's declaration. It names the labels in the error.
        labels: [prompts, tokens]; see `EditPoint.labels`.
        logits: the logits of the loop's forward, [rows, tokens, vocabulary].

    Raises:
        AttachmentError: the labels do not have the declared form.
    """

    def __init__(self, point: EditPoint, labels: Tensor, logits: Tensor) -> None:
        self._labels = Inputs({"labels": labels})
        shown = labels.cpu()
        fits = shown.dim() == 2 and shown.shape[1] == logits.shape[1] and len(shown) <= len(logits)
        fits = fits and int(shown.max()) < logits.shape[-1]
        if not fits or not (shown != IGNORED).any(1).all():
            raise AttachmentError(
                f"sadr.stop_at: {point.editor}'s variable {point.labels!r} of shape "
                f"{tuple(labels.shape)} holds no labels, one token of the vocabulary "
                f"or more in each row of [prompts, tokens], for logits of shape "
                f"{tuple(logits.shape)}; its adapter fits another version"
            )
        row, token = (shown != IGNORED).nonzero(as_tuple=True)
        index = torch.stack([row, token, shown[row, token]]).to(logits.device)
        self._row, self._token, self._id = index.unbind()
        self._lengths = (shown != IGNORED).sum(1).to(logits.device)

    def is_of(self, labels: Tensor) -> bool:
        """Whether this target was made from these labels."""
        return self._labels.are({"labels": labels})

    def standing(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return how the target stands after the rewriting prompts, as two scalars from 0 to 1.

        The first is its probability: the exponential of the mean log-probability of its tokens,
        averaged over the prompts. EasyEdit prints the same number at each step. The second is the
        share of prompts after which each of its tokens is the likeliest.

        Args:
            logits: the logits of the loop's forward, [rows, tokens, vocabulary].
        """
        predicted = logits[self._row, self._token].detach().float().log_softmax(-1)
        found = predicted.gather(-1, self._id.unsqueeze(-1)).squeeze(-1)
        # In half precision several tokens may be the likeliest.
        first = (found >= predicted.amax(-1)).to(found.dtype)
        none = found.new_zeros(len(self._lengths))
        sums, firsts = (none.index_add(0, self._row, values) for values in (found, first))
        return (sums / self._lengths).exp().mean(), (firsts == self._lengths).float().mean()


def labels_behind(
    edit: Edit, prompts: list[PromptTokens], input_ids: Tensor, positions: Positions
) -> Tensor:
    """Make labels for a loop that does not show its own.

    Args:
        edit: gives the target.
        prompts: the rewriting prompts.
        input_ids: the loop's batch, [rows, tokens]: each prompt with its target. The last token of
            the target may be missing.
        positions: where the prompts end.

    Returns:
        [prompts, tokens]; see `EditPoint.labels`.

    Raises:
        ConfigError: the target has no tokens.
        PositionError: the batch does not have the target after a prompt, or prompt and target merge
            into one token.
    """
    labels = torch.full((len(prompts), input_ids.shape[1]), IGNORED)
    added = added_at_end(edit.tokenizer)
    rows = zip(prompts, positions.prediction.tolist(), input_ids.tolist(), strict=False)
    for row, (prompt, start, tokens) in enumerate(rows):
        text = f"{prompt.prompt.text}{edit.target}"
        whole = without_end(edit.tokenizer(text)["input_ids"], added)
        if shared_length(prompt.ids, whole) < len(prompt.ids):
            raise PositionError(
                f"sadr.stop_at: behind {prompt.prompt.text!r} the target {edit.target!r} does not "
                "begin with a token of its own; does it lack its leading space?"
            )
        target = whole[len(prompt.ids) :]
        if not target:
            raise ConfigError(
                f"sadr.stop_at: the target {edit.target!r} has no tokens; give a target that is "
                "not empty"
            )
        given = tokens[start + 1 : start + len(target)]
        if given != target[:-1]:
            raise PositionError(
                f"sadr.stop_at: the tokens {target[:-1]} of the target were looked for after the "
                f"rewriting prompt, found {given}; remove the key for this edit"
            )
        labels[row, start : start + len(target)] = torch.tensor(target)
    return labels
