"""A layer above the edited one: its first output, and how it runs on a window of its tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._signatures import signature_of
from ..attention._modules import implementation, method_source
from ._arguments import (
    Arguments,
    LayerCache,
    cut_value,
    detached,
    hidden_in,
    hidden_of,
    with_hidden,
)
from ._conditions import is_hooked
from ._window import Window

CACHE_ARGUMENTS = ("past_key_values", "past_key_value", "layer_past", "cache")
"""The argument with which transformers passes a cache to a layer.

In this order: in releases 5.0 to 5.23, in earlier ones, in GPT models, and since 5.24.
"""

_UPDATE = re.compile(rf"({'|'.join(CACHE_ARGUMENTS)})\.update\(")

CUTTABLE = (None, "sdpa", "eager")
"""The attention implementations whose mask has a row for each query."""

Forward = Callable[..., Any]


class WindowedLayer:
    """A layer, or the output head, that runs only on a window after its first forward.

    The window's tokens attend to the stored keys and values of the other tokens. They reach the
    layer through the cache of transformers' attention modules, so no code of the model is replaced.
    If `keep` or `prove` finds that the result would not be exact, the layer runs in full.

    Args:
        module: the layer or the head.
        attention: the layer's attention module; None if it has none.
        is_head: whether it is the output head.
    """

    def __init__(
        self, module: nn.Module, attention: nn.Module | None, is_head: bool = False
    ) -> None:
        self.module = module
        self.refusal: str | None = None
        """The reason why the layer runs in full. None if it runs on a window."""
        signature = signature_of(module.forward)
        self._names = tuple(signature.parameters)
        self._cache = next((name for name in CACHE_ARGUMENTS if name in self._names), None)
        self.is_recurrent = not is_head
        """Whether it passes on what tokens hold by other means than attention."""
        self._attends = attention is not None
        self._masked = "attention_mask" in self._names
        self._inner = tuple(inner for inner in module.modules() if inner is not module)
        self._gives_more = False
        self._arguments: Arguments | None = None
        self._output: Tensor | None = None
        self._keys: tuple[Tensor, Tensor] | None = None
        if is_head:
            return
        if attention is None:
            self.refusal = "has no attention, and may run over all its tokens"
        elif _keeps_another_state(module, attention):
            self.refusal = "has a part beside its attention that keeps a state"
        else:
            self.is_recurrent = False
            if self._cache is None or not _updates_cache(attention):
                self.refusal = "has no cache that keys could be put into"
            elif _implementation(module) not in CUTTABLE:
                self.refusal = f"attends by {_implementation(module)}, whose mask cannot be cut"

    def refuse(self, reason: str) -> None:
        """Run the layer in full from now on, unless it does for another reason already."""
        self.refusal = self.refusal or reason

    def kept(self) -> list[Tensor]:
        """Return the stored tensors that later forwards use."""
        return [t for t in (self._output, *(self._keys or ())) if t is not None]

    def keep(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the layer in full, and store what a window of it will need."""
        arguments = Arguments(args, kwargs, self._names)
        if self.refusal is not None:
            return forward(*args, **kwargs)
        given, cache = arguments, None
        if self._attends:
            assert self._cache is not None
            original = arguments.get(self._cache)
            cache = LayerCache(self._record(original), original)
            given = arguments.replaced(self._cache, cache)
        output = forward(*given.args, **given.kwargs)
        output = self._without_cache(output, arguments)
        self._judge(arguments, output, [] if cache is None else cache.asked)
        return output

    def _judge(self, arguments: Arguments, output: Any, asked: list[str]) -> None:
        hidden, first = arguments.hidden, hidden_of(output)
        others = output[1:] if isinstance(output, tuple) else ()
        if not isinstance(hidden, Tensor) or not isinstance(first, Tensor) or hidden.dim() != 3:
            self.refusal = "does not take and give hidden states [rows, tokens, size]"
        elif first.shape[:2] != hidden.shape[:2]:
            self.refusal = "does not give hidden states for each token"
        elif asked:
            self.refusal = f"asks its cache for more than keys ({asked[0]})"
        elif self._attends and self._keys is None:
            self.refusal = "asks its cache for nothing"
        elif self._keys is not None and not all(
            t.dim() == 4 and len(t) == len(hidden) and t.shape[2] == hidden.shape[1]
            for t in self._keys
        ):
            self.refusal = "keeps keys of another form than [rows, heads, tokens, size]"
        else:
            self._gives_more = any(isinstance(other, Tensor) for other in others)
            self._arguments, self._output = arguments.map(detached), first.detach()
            return
        self._keys = None

    def prove(self, window: Window, real: Tensor) -> Tensor:
        """Check that the layer gives the same on a window of the stored forward, a boolean scalar.

        Args:
            window: any window.
            real: which tokens are not padding, [rows, tokens].
        """
        assert self._arguments is not None
        assert self._output is not None
        arguments = self._arguments
        device = self._output.device
        try:
            part = hidden_of(self._run(self.module.forward, arguments, window, {}))
            expected = window.cut(self._output)
            window.paste(part, self._output)  # fails if the precision differs
            gap = (part - expected).float().norm(dim=-1)
        except Exception as error:  # a layer may raise anything in a call it was not made for
            self.refusal = f"cannot run on a part of its tokens ({type(error).__name__}: {error})"
            return torch.zeros((), dtype=torch.bool, device=device)
        change = expected.float()
        if part.shape == (hidden := window.cut(arguments.hidden)).shape:
            change = change - hidden.float()
        epsilon = torch.finfo(part.dtype).eps
        # Allow rounding in the sum of input and change, and within the change.
        allowed = epsilon * expected.float().norm(dim=-1)
        allowed = allowed + max(1e-3, 4 * epsilon) * change.norm(dim=-1)
        holds: Tensor = ((gap <= allowed) | ~window.cut(real.to(device))).all()
        return holds

    def looks_ahead(self, real: Tensor) -> Tensor | None:
        """Check whether the mask of the stored forward shows later tokens, a boolean scalar.

        None if there is no mask [rows, heads, tokens, tokens].
        """
        mask = None if self._arguments is None else self._arguments.get("attention_mask")
        tokens = real.shape[1]
        if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[2:] != (tokens, tokens):
            return None
        seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        later = seen.triu(1).any(-1).any(1)  # [rows, queries]; padding may see anything
        return (later & real.to(mask.device)).any()

    def settle(self) -> None:
        """Release what only the check needed. Release everything if the layer runs in full."""
        self._arguments = None
        if self.refusal is not None:
            self._output = self._keys = None

    def straighten(self) -> None:
        """Make the stored tensors contiguous.

        Call it only after the graph of the first forward is released, because the copies need
        memory.
        """
        if self._output is not None:
            self._output = self._output.contiguous()
        if self._keys is not None:
            self._keys = (self._keys[0].contiguous(), self._keys[1].contiguous())

    def runs_on_window(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether the layer runs on a window in this call.

        It does not if it is hooked, because hooks must not see only a part of the tokens.
        """
        if self.refusal is not None or self._output is None or self._is_hooked():
            return False
        hidden = hidden_in(args, kwargs)
        return isinstance(hidden, Tensor) and hidden.shape[:2] == self._output.shape[:2]

    def refuse_if_unfit(self, rows: int, tokens: int) -> None:
        """Run the layer in full from now on if it is hooked or did not run on every token."""
        if self.refusal is not None:
            return
        if self._is_hooked():
            self.refusal = "is watched by a hook"
        elif self._output is None or self._output.shape[:2] != (rows, tokens):
            self.refusal = "did not run on every token"

    def _is_hooked(self) -> bool:
        # A hook on the layer itself sees whole hidden states, but only a part of attention weights.
        watched = (*self._inner, self.module) if self._gives_more else self._inner
        return any(map(is_hooked, watched))

    def run(
        self,
        forward: Forward,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        window: Window,
        memo: dict[int, tuple[Any, Any]],
    ) -> Any:
        """Run the layer on the window and return an output with all tokens.

        The tokens outside the window have their stored values.

        Args:
            forward: the layer's own forward.
            args: its positional arguments.
            kwargs: its keyword arguments.
            window: the tokens to compute.
            memo: what other layers cut from the tensors of the same forward.
        """
        assert self._output is not None
        output = self._run(forward, Arguments(args, kwargs, self._names), window, memo)
        whole = window.paste(hidden_of(output), self._output)
        return with_hidden(output, whole)

    def _run(
        self,
        forward: Forward,
        arguments: Arguments,
        window: Window,
        memo: dict[int, tuple[Any, Any]],
    ) -> Any:
        rows, tokens = arguments.hidden.shape[:2]

        def cut(value: Any) -> Any:
            if id(value) not in memo:
                memo[id(value)] = (value, cut_value(value, window, rows, tokens))
            return memo[id(value)][1]

        given = arguments.map(cut)
        if self._attends:
            assert self._cache is not None
            original = arguments.get(self._cache)
            given = given.replaced(self._cache, LayerCache(self._whole(window), original))
            if self._masked and arguments.get("attention_mask") is None:
                given = given.replaced("attention_mask", self._causal_mask(arguments, window, memo))
        output = forward(*given.args, **given.kwargs)
        return self._without_cache(output, arguments)

    def _causal_mask(
        self, arguments: Arguments, window: Window, memo: dict[int, tuple[Any, Any]]
    ) -> Tensor:
        """Return the mask for a forward without one.

        All layers share one mask object, because this shows that their attention calls are similar.
        """
        key = -1  # not the id of any object
        if key not in memo:
            eager = _implementation(self.module) != "sdpa"
            memo[key] = (None, window.causal_mask(arguments.hidden, additive=eager))
        mask: Tensor = memo[key][1]
        return mask.to(arguments.hidden.device)

    def _without_cache(self, output: Any, arguments: Arguments) -> Any:
        """Replace the layer's cache in ``output`` by the model's own cache."""
        if not isinstance(output, tuple) or self._cache is None:
            return output
        original = arguments.get(self._cache)
        return tuple(original if isinstance(item, LayerCache) else item for item in output)

    def _record(self, original: Any) -> Callable[..., tuple[Tensor, Tensor]]:
        def update(key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            if original is not None:
                key, value = original.update(key, value, *args, **kwargs)
            self._keys = (key.detach(), value.detach())
            return key, value

        return update

    def _whole(self, window: Window) -> Callable[..., tuple[Tensor, Tensor]]:
        assert self._keys is not None
        kept_key, kept_value = self._keys

        def update(key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            return (
                window.paste(key, kept_key, by_head=True),
                window.paste(value, kept_value, by_head=True),
            )

        return update


def _keeps_another_state(layer: nn.Module, attention: nn.Module) -> bool:
    """Whether a part of the layer outside its attention takes a cache, too."""
    for part in layer.modules():
        if part is layer or attention in part.modules():
            continue
        takes = signature_of(part.forward).parameters
        if any(name in takes for name in (*CACHE_ARGUMENTS, "cache_params")):
            return True
    return False


def _updates_cache(attention: nn.Module) -> bool:
    """Whether the source of an attention module passes its keys to a cache object.

    Other modules unpack tuples of tensors and would fail on an object.
    """
    return _UPDATE.search(method_source(type(attention), "forward")) is not None


def _implementation(layer: nn.Module) -> str | None:
    """Return the attention implementation of a layer, which a module in it knows."""
    return next(filter(None, map(implementation, layer.modules())), None)
