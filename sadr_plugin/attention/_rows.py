"""Compute attention rows of each prompt and head from what was seen of the computation.

A transformers attention module ends in ``attention_interface(module, query, key, value, mask, …)``
for every attention implementation. Query and key are final there (rotated, normalised), so they are
enough for a row: softmax(q_t · Kᵀ · scaling + mask_t). This costs O(tokens · head size) for each
head. It also works if the kernel returns no weights. Older modules call torch's kernel themselves,
or compute the weights in their own code.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ._modules import implementation, remedy


@dataclass(frozen=True)
class Span:
    """The tokens of a forward on which some layers ran, if these were not all tokens.

    Attributes:
        start: the first of them in each row of the batch, [rows].
        size: their number, which is smaller than that of all tokens.
    """

    start: Tensor
    size: int


class Attention(Protocol):
    """What was seen of one layer's attention in a forward."""

    def rows(self, position: Tensor, span: Span | None = None) -> Tensor:
        """Return the attention row of each prompt at its own position, in every head.

        Args:
            position: index of the attending token in each prompt, [prompts]. The prompts are the
                first rows of the batch.
            span: the tokens on which a layer ran if it did not run on all of them. The layer's
                queries show which is the case.

        Returns:
            Probabilities [prompts, heads, tokens], always float32, differentiable. They equal the
            weights that the model computes with, before dropout. These are the weights of eager
            attention, without what another kernel ignores (softcap, sinks).

        Raises:
            UnsupportedModelError: the row is not over the tokens of the batch.
        """

    def all_rows(self) -> Tensor:
        """Return the rows of every token of a forward that ran in full.

        Returns:
            Probabilities [batch, heads, tokens, tokens]; see `rows`.
        """


@dataclass(frozen=True)
class AttentionWeights:
    """Attention weights that a module computed itself.

    Attributes:
        weights: [batch, heads, tokens or a part of them, tokens].
    """

    weights: Tensor

    def rows(self, position: Tensor, span: Span | None = None) -> Tensor:
        """See `Attention.rows`."""
        if self.weights.dim() != 4:
            raise UnsupportedModelError(
                f"attention weights of shape {tuple(self.weights.shape)} cannot be read, "
                "[batch, heads, tokens, tokens] is expected; leave such layers out with sadr.layers"
            )
        device, queries = self.weights.device, self.weights.shape[2]
        prompt = torch.arange(len(position), device=device)
        index = _among_queries(position, span, queries).to(device)
        rows = self.weights[prompt, :, index].float()
        return _of_batch(rows, position.to(device), span, queries)

    def all_rows(self) -> Tensor:
        """See `Attention.all_rows`."""
        return self.weights.float()


@dataclass(frozen=True)
class AttentionCall:
    """The inputs of one call to an attention interface, by name.

    Attributes:
        query: [batch, heads, tokens, head size], as the kernel receives it.
        key: [batch, key heads, tokens, head size]. The number of heads is a multiple of the number
            of key heads.
        mask: None (causal); additive or boolean [batch or 1, heads or 1, tokens, tokens]; or 1 for
            real tokens [batch, tokens].
        visible: the mask of flex attention, a function of the indices of prompt, head, attending
            token and attended token.
        scaling: factor of the scores. None is 1/√(head size).
        softcap: scores become ``softcap · tanh(scores / softcap)`` (Gemma 2).
        sinks: an extra score for each head, [heads]. It takes probability away from the tokens
            (gpt-oss).
        sliding_window: the number of tokens that a token sees, counted backwards from itself, if
            the mask does not contain this limit already.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    visible: Callable[..., Tensor] | None = None
    scaling: float | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    sliding_window: int | None = None

    @classmethod
    def from_inputs(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> AttentionCall:
        """Read the arguments of ``attention_interface(module, query, key, value, mask, …)``.

        Raises:
            UnsupportedModelError: the mask is neither a tensor nor a mask of flex attention.
        """
        names = ("module", "query", "key", "value", "attention_mask")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        mask = given.get("attention_mask")
        visible = getattr(mask, "mask_mod", None)
        if visible is not None:
            mask = None
        if mask is not None and not isinstance(mask, Tensor):
            raise UnsupportedModelError(
                f"{type(given['module']).__name__} masks attention with a "
                f"{type(mask).__name__}, which cannot be read a row at a time; "
                f"{remedy(given['module'])}"
            )
        sdpa = implementation(given["module"]) == "sdpa"  # it ignores softcap and sinks
        return cls(
            query=given["query"],
            key=given["key"],
            mask=mask,
            visible=visible,
            scaling=given.get("scaling", _own_scaling(given["module"], given["query"])),
            softcap=None if sdpa else given.get("softcap"),
            sinks=None if sdpa else given.get("s_aux"),
            sliding_window=given.get("sliding_window"),
        )

    @classmethod
    def from_kernel(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> AttentionCall:
        """Read the arguments of torch's ``scaled_dot_product_attention(query, key, …)``."""
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        query, key, mask = given["query"], given["key"], given.get("attn_mask")
        tokens = (query.shape[-2], key.shape[-2])
        if mask is None and not given.get("is_causal"):
            mask = torch.ones(tokens, dtype=torch.bool, device=key.device)
        if mask is not None:
            # torch broadcasts from the right, so [tokens, tokens] applies to all prompts and heads.
            mask = mask.expand(*[1] * (4 - mask.dim()), *mask.shape[:-2], *tokens)
        return cls(
            query=query,
            key=key,
            mask=mask,
            scaling=given.get("scale"),
        )

    def rows(self, position: Tensor, span: Span | None = None) -> Tensor:
        """See `Attention.rows`."""
        return _rows_alike([self], position, span)[0]

    def all_rows(self) -> Tensor:
        """See `Attention.all_rows`."""
        batch, tokens = self.query.shape[0], self.query.shape[2]
        positions = torch.arange(tokens, device=self.query.device)
        return torch.stack([self.rows(position.expand(batch)) for position in positions], dim=2)

    def likeness(self) -> Hashable:
        """Return a key that is equal for calls that differ only in query and key values."""
        mask = None if self.mask is None else id(self.mask)
        if self.visible is not None or self.sinks is not None:
            return id(self)
        settings = (self.scaling, self.softcap, self.sliding_window, mask)
        return (self.query.shape, self.key.shape, self.query.device, settings)

    def scores(self, prompt: Tensor, index: Tensor) -> Tensor:
        """Return the input of the softmax before softcap and mask, [prompts, heads, tokens].

        Args:
            prompt: the index of each prompt in the batch, [prompts].
            index: the index of the attending token among those of ``query``, [prompts].
        """
        count = len(prompt)
        key = self.key[:count].float()
        query = self.query[prompt, :, index].float()
        heads, key_heads = query.shape[1], key.shape[1]
        query = query.view(count, key_heads, heads // key_heads, -1)
        scaling = self.scaling if self.scaling is not None else query.shape[-1] ** -0.5
        return (query @ key.transpose(-1, -2)).flatten(1, 2) * scaling

    def probabilities(
        self, scores: Tensor, prompt: Tensor, index: Tensor, position: Tensor
    ) -> Tensor:
        """Turn ``scores`` into attention rows. The scores may be those of several layers.

        Args:
            scores: as `scores` returns them, with any number of leading dimensions.
            prompt: as for `scores`.
            index: as for `scores`.
            position: the index of the attending token among all tokens, [prompts].
        """
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        scores = self._masked(scores, prompt, index, position)
        if self.sinks is None:
            return scores.softmax(-1)
        sinks = self.sinks.float().view(-1, 1).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]

    def _masked(self, scores: Tensor, prompt: Tensor, index: Tensor, position: Tensor) -> Tensor:
        """Set ``scores`` […, prompts, heads, tokens] to −∞ at tokens that are not visible."""
        tokens = scores.shape[-1]
        token = torch.arange(tokens, device=scores.device)
        if self.visible is not None:
            head = torch.zeros_like(prompt)[:, None]
            seen = self.visible(prompt[:, None], head, position[:, None], token[None])
            return scores.masked_fill(~seen.unsqueeze(1), -torch.inf)
        mask = self.mask
        if mask is not None and mask.dim() == 4:
            # One row for each prompt. A dimension of size 1 applies to all prompts, heads or
            # positions.
            rows = prompt if mask.shape[0] > 1 else torch.zeros_like(prompt)
            queries = index if mask.shape[2] > 1 else torch.zeros_like(index)
            row = mask[rows, :, queries, :tokens]
            if row.dtype == torch.bool:
                scores = scores.masked_fill(~row, -torch.inf)
            else:
                scores = scores + row.float()
            if mask.shape[2] > 1:
                return scores
            mask = None  # a mask of padding only, as in GPT-2; causality is added below
        distance = position.unsqueeze(-1) - token
        visible = distance >= 0
        if self.sliding_window is not None:
            visible &= distance < self.sliding_window
        if mask is not None:
            visible &= mask[: len(prompt), :tokens].bool()
        return scores.masked_fill(~visible.unsqueeze(1), -torch.inf)


def rows_of(seen: Sequence[Attention], position: Tensor, span: Span | None = None) -> list[Tensor]:
    """Return the rows of each layer, see `Attention.rows`. Similar layers are computed together."""
    alike: dict[Hashable, list[int]] = {}
    for index, attention in enumerate(seen):
        key = attention.likeness() if isinstance(attention, AttentionCall) else index
        alike.setdefault(key, []).append(index)
    found: dict[int, Tensor] = {}
    for indices in alike.values():
        calls = [call for i in indices if isinstance(call := seen[i], AttentionCall)]
        if calls:
            found.update(zip(indices, _rows_alike(calls, position, span), strict=True))
        else:
            found[indices[0]] = seen[indices[0]].rows(position, span)
    return [found[index] for index in range(len(seen))]


def _rows_alike(
    calls: Sequence[AttentionCall], position: Tensor, span: Span | None
) -> Sequence[Tensor]:
    query, key = calls[0].query, calls[0].key
    prompt = torch.arange(len(position), device=key.device)
    index = _among_queries(position, span, query.shape[2]).to(key.device)
    position = position.to(key.device)
    # Autocast would compute the product in half precision.
    with torch.autocast(key.device.type, enabled=False):
        scores = torch.stack([call.scores(prompt, index) for call in calls])
        rows = calls[0].probabilities(scores, prompt, index, position)
    return _of_batch(rows, position, span, query.shape[2]).unbind()


def _among_queries(position: Tensor, span: Span | None, queries: int) -> Tensor:
    """Return the place of ``position`` among the attending tokens, which may be a part of all."""
    if span is None or queries != span.size:
        return position
    return position - span.start[: len(position)].to(position.device)


def _of_batch(rows: Tensor, position: Tensor, span: Span | None, queries: int) -> Tensor:
    """Return rows over the tokens of the batch alone.

    Some models attend to a buffer of keys that is longer than the batch. Its end is masked.

    Args:
        rows: […, prompts, heads, keys].
        position: the attending token of each prompt, [prompts].
        span: see `Attention.rows`.
        queries: the number of attending tokens.

    Raises:
        UnsupportedModelError: the keys are not those of the batch's tokens, from the first on.
    """
    keys = rows.shape[-1]
    if keys == queries or (span is not None and queries == span.size):
        return rows
    later = torch.arange(keys, device=rows.device) > position.view(-1, 1, 1)
    if keys < queries or (rows.detach() * later).any():
        raise UnsupportedModelError(
            f"{queries} tokens attend to {keys} keys that are not those of the same tokens, as "
            "with a trained prefix or a window that is shorter than the prompts; SADR cannot tell "
            "which key is the subject's. Edit the model without the prefix, or with shorter prompts"
        )
    return rows[..., :queries]


def _own_scaling(module: nn.Module, query: Tensor) -> float | None:
    """Return the scaling of a module that leaves it to its eager kernel, as GPT-2 does.

    The options of such a module, to scale by the layer's number or not at all, have an effect only
    in the eager kernel.

    Returns:
        None for 1/√(head size).
    """
    if implementation(module) != "eager":
        return None
    config = getattr(module, "config", None)
    scaling = query.shape[-1] ** -0.5 if getattr(config, "scale_attn_weights", True) else 1.0
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        scaling /= float(getattr(module, "layer_idx", 0)) + 1
    return scaling
