"""Watch a model's attention with nnsight, and restore the model afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pluggy import HookRelay
from torch import Tensor, nn

from ..errors import BusyModelError, UnsupportedModelError
from ._call_sites import CallSite, call_sites
from ._inputs import input_device
from ._layers import Watch, attention_modules
from ._modules import FUNCTIONS, remedy
from ._nnsight import Confined, NotCalled, import_nnsight, is_read_elsewhere, observe
from ._rows import Attention, rows_of


class _Watched(nn.Module):
    """A root module for nnsight that holds only the attention modules and runs any forward.

    If nnsight wrapped the whole model, it would put a controller on every module of it. With this
    root, it touches only the watched modules.
    """

    def __init__(self, attention: Mapping[int, nn.Module]) -> None:
        super().__init__()
        for layer, module in attention.items():
            self.add_module(f"layer_{layer}", module)

    def forward(self, run: Callable[[], Any]) -> Any:
        return run()


def tracer_for(watch: Watch, hooks: HookRelay) -> AttentionTracer:
    """Return a tracer for the attention module of each watched layer.

    Raises:
        ConfigError: a layer is outside the model, or no layer is left.
        UnsupportedModelError: the plugin cannot read the attention. It is raised here or on
            entering the tracer.
    """
    model = watch.model

    @torch.no_grad()
    def trial() -> None:
        cuda = {p.device for p in model.parameters() if p.device.type == "cuda"}
        ids = torch.zeros((1, 1), dtype=torch.long, device=input_device(model))
        try:
            # A model in training mode draws random numbers for dropout.
            with torch.random.fork_rng(cuda):
                model(input_ids=ids)
        except Exception as error:
            raise UnsupportedModelError(
                f"{type(model).__name__} has several ways to attend, and a forward of one "
                f"token, to see which it takes, failed: {error}"
            ) from error

    _refuse_compiled(model)
    weightless = all(parameter.is_meta for parameter in model.parameters())  # it cannot run
    return AttentionTracer(
        attention_modules(watch, hooks), None if weightless else trial, remedy(model)
    )


def _refuse_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if _is_compiled(module):
            raise UnsupportedModelError(
                f"{name or 'the model'} ({type(module).__name__}) was compiled by torch.compile, "
                "and SADR cannot see into a compiled forward; edit the model first and compile it "
                "afterwards"
            )


def _is_compiled(module: nn.Module) -> bool:
    # `torch.compile(module)` wraps a module. `module.compile()` marks it.
    # `torch.compile(module.forward)` returns a function with a reference to the original.
    if getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod"):
        return True
    function: Any = module.forward
    while function is not None:
        # A function from `torch.compiler.disable` has this reference, too.
        disabled = getattr(function, "_torchdynamo_disable", False)
        if hasattr(function, "_torchdynamo_orig_callable") and not disabled:
            return True
        function = getattr(function, "__wrapped__", None)
    return False


class AttentionTracer:
    """Reads the inputs of a model's attention calls while it is open.

    Use it as a context manager. Afterwards every module is as it was: nnsight's controllers are
    removed from the modules' ``__dict__``, and a wrapper that the user had put there stays.

    Args:
        attention: the attention module of each layer to watch.
        trial: a cheap forward of the model. The forward of a module may hold several calls at which
            attention can be read, and use only one of them. A trial shows which one.
        remedy: what to do if a call is not made, for the error.

    Attributes:
        layers: the indices of the watched layers.

    Raises:
        UnsupportedModelError: on entering, if a module has no call that nnsight can address and at
            which attention can be read.
        BusyModelError: on entering, if another thread reads the same modules.
    """

    def __init__(
        self,
        attention: Mapping[int, nn.Module],
        trial: Callable[[], Any] | None = None,
        remedy: str = "leave such layers out with sadr.layers",
    ) -> None:
        self.layers = tuple(attention)
        self._attention = dict(attention)
        self._trial = trial
        self._remedy = remedy
        self._left: list[tuple[nn.Module, str, Any]] = []
        self._confined = Confined()
        self._sight: Any = None
        self._sites: list[CallSite] = []
        self._chosen: dict[type[nn.Module], int] = {}

    def __enter__(self) -> AttentionTracer:
        nnsight = import_nnsight()
        before = [
            (module, dict(module.__dict__))
            for attention in self._attention.values()
            for module in attention.modules()
        ]
        if any(is_read_elsewhere(module) for module, _ in before):
            raise BusyModelError(
                "the attention of this model is being read in another thread, by an edit with SADR "
                "or a DriftProbe; wait for it to end, or use a copy of the model"
            )
        try:
            self._sight = nnsight.NNsight(_Watched(self._attention))
            sites = {layer: self._sites_of(layer) for layer in self.layers}
            self._sites = [self._taken(layer, sites[layer]) for layer in self.layers]
            self._note_what_is_left(before)
            self._confined.begin(module for module, _ in before)
            return self  # inside, because an interrupt may come at any line
        except BaseException:
            self._note_what_is_left(before)
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, forward: Callable[[], Any]) -> tuple[Any, list[Attention]]:
        """Run ``forward`` and read the attention calls in it.

        An exception inside ``forward`` passes through.

        Returns:
            The result of ``forward``, and the attention of each watched layer, in the order of
            ``layers``.

        Raises:
            UnsupportedModelError: a watched module did not make its call.
        """
        with self._explained():
            return self._watch(forward, self._sites)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except NotCalled as error:
            classes = {type(module).__name__ for module in self._attention.values()}
            raise UnsupportedModelError(
                f"{', '.join(sorted(classes))}: one of the layers {self.layers[0]}-"
                f"{self.layers[-1]} did not make the attention call that SADR found in its source; "
                f"{self._remedy}"
            ) from error

    def run_with_rows(
        self, forward: Callable[[], Any], position: Tensor
    ) -> tuple[Any, list[Tensor]]:
        """Run ``forward`` and return its result with each layer's rows at ``position``.

        See `run` and `Attention.rows`.
        """
        output, seen = self.run(forward)
        return output, rows_of(seen, position)

    def run_with(
        self,
        forward: Callable[[], Any],
        rows: Sequence[Tensor],
        heads: Mapping[int, Sequence[int] | None] | None = None,
    ) -> Any:
        """Run ``forward`` with other attention rows than its own.

        Args:
            forward: the forward to run. Each watched layer attends once, to all tokens.
            rows: for each watched layer, in the order of ``layers``, [batch, heads, tokens,
                tokens]; see `Attention.all_rows`.
            heads: for each layer, the heads that use these rows, or None for all its heads. A layer
                that is not in the mapping keeps its own rows. None means all heads of all layers.

        Returns:
            The result of ``forward``.

        Raises:
            UnsupportedModelError: a watched module did not make its call.
        """
        changes = [
            partial(site.attend_by, of_layer, None if heads is None else heads[layer])
            for layer, site, of_layer in zip(self.layers, self._sites, rows, strict=True)
            if heads is None or layer in heads
        ]
        with self._explained():
            return observe(self._sight, forward, changes)[0]

    def _watch(
        self, forward: Callable[[], Any], sites: Sequence[CallSite]
    ) -> tuple[Any, list[Attention]]:
        return observe(self._sight, forward, [site.read for site in sites])

    def close(self) -> None:
        """Remove nnsight from the modules. It may be called more than once."""
        self._confined.end()
        for module, name, previous in self._left:
            if previous is _ABSENT:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = previous
        self._left = []
        self._sight = None
        self._sites = []

    def _sites_of(self, layer: int) -> list[CallSite]:
        """Return the calls at which the layer's attention module may attend, best first."""
        source = getattr(self._sight, f"layer_{layer}").source
        return call_sites(source, type(self._attention[layer]))

    def _taken(self, layer: int, sites: Sequence[CallSite]) -> CallSite:
        """Choose the call that a layer uses. Layers of one class use the same call."""
        module_class = type(self._attention[layer])
        if not sites:
            raise UnsupportedModelError(
                f"{module_class.__name__} (layer {layer}) makes no call at which SADR can read "
                f"attention ({', '.join(FUNCTIONS.values())}); leave the layer out with "
                "sadr.layers, or point at another module with a sadr_attention_module hook"
            )
        if len(sites) > 1 and self._trial is not None and module_class not in self._chosen:
            self._chosen[module_class] = self._try(sites, self._trial)
        return sites[self._chosen.get(module_class, 0)]

    def _try(self, sites: Sequence[CallSite], trial: Callable[[], Any]) -> int:
        for index, site in enumerate(sites):
            with contextlib.suppress(NotCalled):
                self._watch(trial, [site])
                return index
        return 0

    def _note_what_is_left(self, before: list[tuple[nn.Module, dict[str, Any]]]) -> None:
        """Record what nnsight wrote into the modules' ``__dict__``, to undo exactly this."""
        for module, attributes in before:
            for name, value in module.__dict__.items():
                if name not in attributes:
                    self._left.append((module, name, _ABSENT))
                elif attributes[name] is not value:
                    self._left.append((module, name, attributes[name]))


_ABSENT = object()
