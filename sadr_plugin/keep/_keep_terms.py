"""The terms of ``sadr.keep``: how much the model's predictions change on other texts."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..adapter import Prompt
from ..config import KeepConfig
from ..errors import ConfigError
from ..terms import LossTerm, OtherPrompts, RunningEdit
from ._texts import write_texts

KEEP = "keep"
DISTRACTED = "keep_distracted"

ASKED = 10
"""Tokens at which the old object is among so many most likely next tokens are not kept.

There the text asks for the edited fact.
"""


class _Kept:
    """Texts with the predictions of the unedited model.

    Args:
        texts: the texts to run.
        old: the old object's first token. Tokens at which it is expected do not count, because the
            edit has to change them. None if it is not known.
    """

    @torch.no_grad()
    def __init__(self, texts: OtherPrompts, old: int | None = None) -> None:
        self._texts = texts
        before = texts.before().float().log_softmax(-1)
        self._likely = before.exp()
        self._entropy = -(self._likely * before).sum(-1)
        rows = texts.rows.to(before.device)
        counted = torch.ones_like(rows, dtype=torch.bool)
        if old is not None:
            likeliest = before.topk(min(ASKED, before.shape[-1])).indices
            counted = (likeliest != old).all(-1)
        counts = rows[counted].bincount(minlength=int(rows.max()) + 1)
        share = counted / counts.clamp(min=1)[rows]
        self._share = share / (counts > 0).sum().clamp(min=1)
        self.counts = bool(counted.any())
        """Whether any token counts."""

    def divergence(self) -> Tensor:
        """Return KL(unedited ‖ now), a scalar, in nats."""
        now = self._texts.now().float()
        gained = nn.functional.cross_entropy(now, self._likely, reduction="none") - self._entropy
        return (gained * self._share).sum()


class KeepTerm:
    """KL(unedited ‖ now) of next-token distributions, averaged over a text's tokens, then texts.

    Args:
        name: see `sadr_plugin.LossTerm`.
        weight: see `sadr_plugin.LossTerm`.
        running: the edit.
        texts: makes the texts at the first step, in parts. Each step uses one part, in turn. It is
            called while the model runs unedited.
    """

    def __init__(
        self, name: str, weight: float, running: RunningEdit, texts: Callable[[], list[_Kept]]
    ) -> None:
        self.name = name
        self.weight = weight
        self._running = running
        self._texts = texts
        self._kept: list[_Kept] | None = None

    def value(self) -> Tensor:
        """Return the divergence, a scalar in nats. It is 0 while the vector is zero."""
        if self._kept is None:
            with self._running.unedited():
                self._kept = self._texts()
            if not any(kept.counts for kept in self._kept):
                keys = "openings and texts" if self.name == KEEP else "others"
                warnings.warn(
                    f"SADR: {self.name} has no text to keep, because every text states the new "
                    f"object or the old one; change {keys} under sadr.keep",
                    stacklevel=2,
                )
        if self._running.vector_is_zero or not self._kept:
            return torch.zeros(())
        return self._kept[self._running.step % len(self._kept)].divergence()


def keep_terms(running: RunningEdit, config: KeepConfig) -> list[LossTerm]:
    """Return the terms of ``sadr.keep``.

    Raises:
        ConfigError: the editor does not add its vector at a token of the subject, or
            ``keep_distracted`` needs a target that the adapter does not give.
    """
    edit = running.edit
    if edit.edited_token == "last":
        raise ConfigError(
            "sadr.keep: this edit changes the prompt's last token, not the subject's, so it does "
            "not reach other prompts; remove the key"
        )
    follows = config.distracted > 0 and config.others > 0
    if follows and edit.target is None:
        raise ConfigError(
            f"sadr.keep.distracted: the adapter of {running.editor} does not say what the edit's "
            "target is, so what it states is not known; set it to 0"
        )
    texts = functools.cache(lambda: write_texts(edit, running.prompt(), config))

    def about() -> list[_Kept]:
        found = texts()
        parts = _parts(found.about, config.parts)
        return [_Kept(running.replay(part), found.old) for part in parts]

    def after() -> list[_Kept]:
        found = texts()
        parts = _parts(found.after, config.parts)
        return [_Kept(running.replay(part, [found.begin] * len(part))) for part in parts]

    terms: list[LossTerm] = []
    if config.weight and (config.openings or config.texts):
        terms.append(KeepTerm(KEEP, config.weight, running, about))
    if follows:
        terms.append(KeepTerm(DISTRACTED, config.distracted, running, after))
    return terms


def _parts(prompts: Sequence[Prompt], count: int) -> list[Sequence[Prompt]]:
    """Divide the prompts into parts, one prompt to each part in turn."""
    return [prompts[index::count] for index in range(min(count, len(prompts)))]
