"""The forwards of an edit's loop: the first in full, the others without what cannot change.

A vector that is added at one token of one layer changes nothing in the layers below, nothing at the
tokens before it, and nothing that is not computed from it. Therefore:

- The layers below the edited one do not run again. Each gives its first output instead.
- The edited layer runs in full, because toolkits add their vector in place there.
- Each layer above, and the output head, runs on a window of every row: from the first token that
  changed to the last real one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from pluggy import HookRelay
from torch import Tensor, nn

from ..attention._layers import Watch, layer_modules
from ..attention._rows import Span
from ._arguments import hidden_in, hidden_of
from ._conditions import CACHE_KEYS, Conditions, random_state
from ._forwards import LayerForwards
from ._inputs import Inputs
from ._layer import WindowedLayer
from ._proof import any_looks_ahead, try_window
from ._window_search import WindowSearch

LOGGER = logging.getLogger("sadr_plugin")


class Reuse:
    """Runs the forwards of one edit's loop.

    Args:
        model: the model that is edited.
        layers: its layers, in order.
        edited: the index of the edited layer.
        attending: the attention modules of the layers above, by index. Some layers may have none.
        host: the `Reuse` of the edit's loop, if this one is for another batch. Both share the
            layers' forwards and the results of the checks. The output head then runs on all of its
            input.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[nn.Module],
        edited: int,
        attending: Mapping[int, nn.Module],
        host: Reuse | None = None,
    ) -> None:
        self.refusal: str | None = None
        """The reason why every forward runs in full. None if forwards run in part."""
        self._model = model
        self._below = list(layers[:edited])
        self._conditions: Conditions | None = None
        self._edited = edited
        self._attending = attending
        self._layers = layers
        self._total = len(layers)
        self._host = host
        self._forwards: LayerForwards = (
            LayerForwards(model, layers) if host is None else host._forwards
        )
        self._above: dict[int, WindowedLayer] = {}
        self._inputs: Inputs | None = None
        self._below_gave: dict[int, Any] = {}
        self._search = WindowSearch()
        self._versions: list[tuple[Tensor, int]] = []
        self._memo: dict[int, tuple[Any, Any]] = {}
        self._calls: list[int] = []
        self._carries = False

    def for_other_prompts(self) -> Reuse:
        """Return an object that runs another batch on the same layers, between the loop's forwards.

        It must not be used longer than this object.
        """
        other = Reuse(self._model, self._layers, self._edited, self._attending, host=self)
        other.fill()
        return other

    @property
    def strayed(self) -> Tensor | None:
        """Whether the last forward's vector was at a token outside the window, a scalar.

        None if there was no window yet.
        """
        return self._search.strayed

    def span(self, device: torch.device) -> Span | None:
        """Return the tokens of each row on which layers above ran in the last forward.

        None if all ran on all tokens.
        """
        window = self._search.window
        return None if window is None else Span(window.start(device), window.size)

    def left_out(self) -> float:
        """Return the share of layers times tokens that the last forward left out, 0 to 1."""
        if self.refusal is not None or self._inputs is None:
            return 0.0
        left, window = float(self._edited), self._search.window
        if window is not None:
            part = 1 - window.size / window.tokens
            left += part * sum(
                layer.refusal is None for i, layer in self._above.items() if i < self._total
            )
        return left / self._total

    def fill(self) -> None:
        """Replace the layers' forwards."""
        parts = self._forwards.parts
        if len(set(map(id, parts))) < len(parts):
            self.refuse("one of its layers stands in several places")
        elif any(getattr(m, "is_causal", True) is False for m in self._attending.values()):
            self.refuse("its tokens attend to later ones")
        elif self._host is not None:
            self.refusal = self._host.refusal
        if self.refusal is not None:
            return
        for index in range(self._edited + 1, len(parts)):
            is_head = index == self._total
            if not is_head or self._host is None:
                attention = self._attending.get(index)
                self._above[index] = WindowedLayer(parts[index], attention, is_head)
        if self._host is None:
            self._forwards.fill()

    def restore(self) -> None:
        """Restore the layers' forwards and release stored tensors.

        It may be called more than once.
        """
        if self._host is None:
            self._forwards.restore()
        self._forget()

    def run(
        self,
        forward: Callable[[], Any],
        inputs: Mapping[str, Any],
        watched: Tensor | None = None,
        gaining: Tensor | None = None,
    ) -> Any:
        """Run a forward of the loop.

        Args:
            forward: a function that runs the model on ``inputs`` through `within`.
            inputs: the arguments of the model's forward, by name.
            watched: see `WindowSearch.begin_forward`.
            gaining: see `WindowSearch.begin_forward`.

        Returns:
            The result of ``forward``.
        """
        self._search.begin_forward(watched, gaining)
        if self.refusal is None and self._host is not None and self._host.refusal is not None:
            self.refuse(self._host.refusal)  # found after the first forward of this object
        if self.refusal is None:
            self._look_for_objections(inputs)
        if self.refusal is not None:
            return forward()
        if self._inputs is None:
            return self._run_first(forward, inputs)
        if not self._search.has_begun:
            for layer in self._above.values():
                layer.straighten()
            self._note_versions_again()
        try:
            with self._forwards.taken(self._anew):
                return forward()
        finally:
            self._memo.clear()

    def within(self, forward: Callable[[], Any]) -> Any:
        """Run the model itself, inside a forward that is given to `run`.

        If layers were left out, the output has no cache, because these layers put no keys in it.
        """
        output = forward()
        runs_anew = self._forwards.way == self._anew
        if not runs_anew or all(getattr(output, name, None) is None for name in CACHE_KEYS):
            return output
        if not isinstance(output, dict):
            return output
        return type(output)(**{k: v for k, v in output.items() if k not in CACHE_KEYS})

    def _look_for_objections(self, inputs: Mapping[str, Any]) -> None:
        if self._conditions is None:
            # This cannot be made earlier, because toolkits freeze the parameters first.
            self._conditions = Conditions(self._model, self._below)
        found = self._conditions.objection(inputs)
        if found is None and self._inputs is not None:
            if not self._inputs.are(inputs):
                found = "its input changes from step to step"
            elif self._was_written_into():
                found = "what a layer gave was changed in place"
        if found is not None:
            self.refuse(found)

    def refuse(self, reason: str) -> None:
        """Run every forward in full from now on, and log the reason."""
        self.refusal = reason
        self._forget()
        forwards = "of the edit" if self._host is None else "with a term's other prompts"
        LOGGER.info("SADR: every forward %s runs in full: %s", forwards, reason)

    def _forget(self) -> None:
        self._above.clear()
        self._versions.clear()
        self._search.forget()
        self._below_gave.clear()
        self._inputs = None

    # Methods of the first forward.

    def _run_first(self, forward: Callable[[], Any], inputs: Mapping[str, Any]) -> Any:
        self._calls, self._carries = [], False
        drawn = random_state()
        with self._forwards.taken(self._keep):
            output = forward()
        called = [index for index in self._calls if index < self._total]
        if not all(map(torch.equal, drawn, random_state())):
            self.refuse("it draws random numbers, as dropout does; model.eval() may end that")
        elif called != list(range(self._total)):
            self.refuse("its layers do not run once each, in their order")
        elif self._calls.count(self._total) > 1:
            self.refuse("its output head runs more than once")
        elif self._carries:
            self.refuse("the vector reaches a layer below the edited one")
        elif self._was_written_into():
            self.refuse("a layer writes into what another gave, in place")
        elif self._search.entry is None:
            self.refuse("its layers do not take and give hidden states [rows, tokens, size]")
        else:
            known = Inputs(inputs)
            self._prove(known)
            if self.refusal is None:
                self._inputs = known
        return output

    def _keep(
        self, index: int, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self._calls.append(index)
        if index <= self._edited:
            output = forward(*args, **kwargs)
            if index < self._edited:
                # Each has its own output: a model may pass one layer's output to several others.
                self._below_gave[index] = kept = _without_cache(output)
                self._note_versions(_tensors(kept))
                self._carries |= any(tensor.requires_grad for tensor in _tensors(output))
            return output
        if index == self._edited + 1:
            self._search.note_input(hidden_in(args, kwargs))
            self._note_versions(self._search.kept())
        layer = self._above.get(index)
        output = forward(*args, **kwargs) if layer is None else layer.keep(forward, args, kwargs)
        if layer is not None:
            self._note_versions(layer.kept())
        if index == self._edited + 1:
            self._search.note_output(hidden_of(output))
        return output

    @torch.no_grad()
    def _prove(self, inputs: Inputs) -> None:
        """Check that each layer above gives the same on a window as on all tokens."""
        assert self._search.entry is not None
        rows, tokens, _ = self._search.entry.shape
        device = self._search.entry.device
        real = inputs.real(rows, tokens, device)
        for layer in self._above.values():
            layer.refuse_if_unfit(rows, tokens)
        if any_looks_ahead(self._above.values(), real):
            self.refuse("its tokens attend to later ones")
            return
        if self._host is None or self._host._inputs is None:
            try_window(self._above.values(), real)
        else:  # the host has checked the same layers already
            for index, layer in self._above.items():
                layer.refusal = layer.refusal or self._host._above[index].refusal
        above = [layer for index, layer in self._above.items() if index < self._total]
        if any(layer.is_recurrent for layer in above) and _begins_with_padding(real):
            # Padding tokens attend to every token, the edited one among them. Attention does not
            # pass this on to real tokens. A recurrent layer may.
            for layer in above:
                layer.refuse("may take what padding has seen, through a recurrent layer")
        for layer in self._above.values():
            layer.settle()
        self._note_versions_again()
        if self._host is None and self.remark():
            LOGGER.info("SADR: in every forward, %s", self.remark())

    def _note_versions(self, kept: Iterable[Tensor]) -> None:
        """Note the versions of tensors when they are stored, to see whether they stay the same."""
        self._versions += [(tensor, tensor._version) for tensor in kept]

    def _note_versions_again(self) -> None:
        """Note the versions of the tensors that are stored now."""
        self._versions.clear()
        self._note_versions(self._search.kept())
        for layer in self._above.values():
            self._note_versions(layer.kept())
        for output in self._below_gave.values():
            self._note_versions(_tensors(output))

    def _was_written_into(self) -> bool:
        """Whether a stored tensor has changed since its version was noted."""
        return any(tensor._version != version for tensor, version in self._versions)

    def remark(self) -> str:
        """Return why forwards, or which layers, run in full. Empty if none do."""
        if self.refusal is not None:
            return self.refusal
        reasons: dict[str, list[str]] = {}
        for index, layer in self._above.items():
            if layer.refusal is not None:
                name = f"layer {index}" if index < self._total else "the output head"
                reasons.setdefault(layer.refusal, []).append(name)
        return "; ".join(
            f"{names[0]} runs in full: it {reason}"
            if len(names) == 1
            else f"{', '.join(names)} run in full: each {reason}"
            for reason, names in reasons.items()
        )

    # Methods of the later forwards.

    def _anew(
        self, index: int, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if index < self._edited:
            return self._below_gave[index]
        if index == self._edited:
            return forward(*args, **kwargs)
        if index == self._edited + 1:
            assert self._inputs is not None
            self._search.look(hidden_in(args, kwargs), self._inputs)
        layer, window = self._above.get(index), self._search.window
        if layer is None or window is None or not layer.runs_on_window(args, kwargs):
            return forward(*args, **kwargs)
        return layer.run(forward, args, kwargs, window, self._memo)


def reuse_for(watch: Watch, hooks: HookRelay) -> Reuse:
    """Return the object that runs the forwards of an edit's loop.

    Raises:
        ConfigError: the model's layers are not where the adapter says.
    """
    layers = layer_modules(watch.model, watch.layer_template)
    attending = {}
    for index in range(watch.edited + 1, len(layers)):
        module = hooks.sadr_attention_module(model=watch.model, layer=layers[index])
        if module is not None:
            attending[index] = module
    return Reuse(watch.model, layers, watch.edited, attending)


def _without_cache(output: Any) -> Any:
    """Return a layer's output without a cache in it. A cache holds the keys of all layers."""
    if type(output) is not tuple:
        return output
    return tuple(None if hasattr(item, "update") else item for item in output)


def _begins_with_padding(real: Tensor) -> bool:
    """Whether a row begins with padding, by which tokens are real, [rows, tokens]."""
    return not bool(real[:, 0].all())


def _tensors(output: Any) -> list[Tensor]:
    items = output if isinstance(output, tuple) else (output,)
    return [item for item in items if isinstance(item, Tensor)]
