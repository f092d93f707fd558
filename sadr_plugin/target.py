"""How likely the edited model finds an edit's target, as the loop's own forward sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ConfigError, PositionError

if TYPE_CHECKING:
    from torch import Tensor

    from .edit import Edit
    from .positions import Positions


def target_tokens(edit: Edit, editor: str) -> list[int]:
    """The target's tokens, without any that a tokenizer puts before a text.

    Raises:
        ConfigError: the adapter does not tell the target.
    """
    if edit.target is None:
        raise ConfigError(
            f"sadr.stop_at: the adapter of {editor} does not say what the edit's target is; "
            "remove the key, or give its Edit a target"
        )
    ids: list[int] = edit.tokenizer(edit.target, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ConfigError(f"sadr.stop_at: the target {edit.target!r} has no tokens")
    return ids


def target_probability(
    logits: Tensor, input_ids: Tensor, positions: Positions, target: list[int]
) -> float:
    """The target's probability after the rewriting prompts, 0 to 1.

    The exponential of the mean log-probability of its tokens, averaged over the prompts: what
    EasyEdit prints at each step.

    Args:
        logits: of the loop's forward, [rows, tokens, vocabulary].
        input_ids: its batch, [rows, tokens]: each prompt with its target, of which the last
            token may be left out.
        positions: where the prompts end.
        target: the target's tokens.

    Raises:
        PositionError: the batch does not have the target behind a prompt.
    """
    import torch

    ids = torch.tensor(target, device=logits.device)
    found = []
    for row, (start, tokens) in enumerate(
        zip(positions.prediction.tolist(), input_ids.tolist(), strict=False)
    ):
        given = tokens[start + 1 : start + len(target)]
        if given != target[:-1]:
            raise PositionError(
                f"sadr.stop_at: the tokens {target[:-1]} of the target were looked for after the "
                f"rewriting prompt, found {given}: there the target is tokenized otherwise than "
                "alone; remove the key for this edit"
            )
        predicted = logits[row, start : start + len(target)].detach().float().log_softmax(-1)
        found.append(predicted.gather(-1, ids[:, None]).mean().exp())
    return torch.stack(found).mean().item()
