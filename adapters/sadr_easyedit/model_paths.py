"""The paths and layers of an hparams file, looked up in the model.

The model is without weights. A path that the editor's code opens and the model lacks is a fault. A
path that the code does not open is a remark.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sadr_plugin import Findings
from sadr_plugin.attention._layers import layer_modules
from sadr_plugin.attention._modules import is_called_attention
from sadr_plugin.errors import ConfigError

from .toolkit_source import ToolkitSource

REWRITTEN = ("rewrite_module_tmp", "rewrite_module_tmps")
TRACED = ("mlp_module_tmp", "attn_module_tmp")

READS_MODULES_WEIGHT = ("neo", "gpt2")
"""PMET takes the head's weight from the module itself if the model's name has one of these."""


@dataclass(frozen=True)
class ModelPaths:
    """The paths of one file, for one model.

    Attributes:
        model: the model without weights.
        source: the editor's source.
        settings: the file, as the toolkit converts its values.
        layers: the edited layers.
        vector_layers: those of them at which the editor finds a vector.
    """

    model: nn.Module
    source: ToolkitSource
    settings: Mapping[str, Any]
    layers: Sequence[int]
    vector_layers: Sequence[int]

    def findings(self) -> Findings:
        """Return what is wrong with the paths and the layers."""
        faults, remarks = [], []
        checks = {
            **{key: self._rewritten(key) for key in REWRITTEN},
            **{key: self._traced(key) for key in TRACED},
            "ln_f_module": self._norm(),
            "lm_head_module": self._head(),
        }
        for key, found in checks.items():
            for text in found if self._given(key) else ():
                if self.source.reads(key):
                    faults.append(f"{key}: {text}")
                else:
                    remarks.append(f"{key}: {text}; the editor does not open it")
                break  # the same is wrong in each layer
        if self._width is None:
            known = "n_embd or hidden_size" if self._knows_both else "n_embd"
            faults.append(
                f"model_name: the editor reads the width of a model as {known}, which the "
                f"configuration of {self._name} does not have"
            )
        last = len(self._layers) - 1
        for layer in self.layers if self._layers else ():
            if not 0 <= layer <= last and layer not in self.vector_layers:  # an edit says of those
                faults.append(f"layers: {layer} is outside {self._name}, whose layers are 0-{last}")
        for is_fault, text in self._loss_layer():
            (faults if is_fault else remarks).append(f"v_loss_layer: {text}")
        return Findings(faults, (), remarks)

    def _given(self, key: str) -> list[str]:
        """Return the templates under a key, those that are texts."""
        value = self.settings.get(key)
        values = value if isinstance(value, list) else [value]
        return [text for text in values if isinstance(text, str)]

    @property
    def _name(self) -> str:
        return type(self.model).__name__

    @cached_property
    def _width(self) -> int | None:
        """The width of the hidden states, as the toolkits read it."""
        config: Any = self.model.config
        if hasattr(config, "n_embd"):
            return int(config.n_embd)
        width = getattr(config, "hidden_size", None) if self._knows_both else None
        return None if width is None else int(width)

    @property
    def _knows_both(self) -> bool:
        """Whether the code reads ``hidden_size``. PMET's own does for some names of models."""
        parts = [*self.source.tested_for("delta"), *self.source.tested_for("delta_mlp")]
        is_named = not parts or any(part in self._path for part in parts)
        return is_named and "hidden_size" in self.source.names

    @property
    def _path(self) -> str:
        """The name or the folder from which the model would be loaded."""
        return str(getattr(self.model.config, "_name_or_path", ""))

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return dict(self.model.named_modules())

    @cached_property
    def _parameters(self) -> dict[str, nn.Parameter]:
        """The parameters by name, as the toolkits find them: a shared one has its first name."""
        return dict(self.model.named_parameters())

    def _rewritten(self, key: str) -> Iterator[str]:
        for template in self._given(key):
            for layer in self._inside(self.layers):
                path = yield from self._filled(template, layer)
                if path is None:
                    continue
                weight = self._parameters.get(f"{path}.weight")
                if weight is None:
                    yield f"{self._name} has no parameter {path}.weight"
                elif weight.dim() != 2:
                    yield f"{path}.weight of {self._name} is no matrix"
                elif self._width not in (None, _outputs(self._modules[path])):
                    yield (
                        f"{path} of {self._name} gives {_outputs(self._modules[path])} numbers for "
                        f"a token, and a hidden state has {self._width}; the editor rewrites the "
                        "last projection of the MLP"
                    )

    def _traced(self, key: str) -> Iterator[str]:
        for template in self._given(key):
            for layer in self._inside(self.vector_layers):
                path = yield from self._filled(template, layer)
                if path is None:
                    continue
                # ROME and PMET add a vector to what the module gives.
                if self._is_elsewhere(path, layer):
                    yield f"{path} is not in the edited layer, {layer}"
                elif self.source.reads(key) and self._gives_no_state(path):
                    yield (
                        f"{path} of {self._name} does not give hidden states alone, to which the "
                        "editor could add its vector"
                    )

    def _is_elsewhere(self, path: str, layer: int) -> bool:
        if layer >= len(self._layers):
            return False  # an edit says it
        return self._modules[path] not in list(self._layers[layer].modules())

    def _gives_no_state(self, path: str) -> bool:
        module, takes_first = self._modules[path], "get_hidden_state" in self.source.names
        if not list(module.parameters()):
            return not isinstance(module, nn.Dropout)  # an activation inside the MLP
        given = _called(module, self._width)
        if isinstance(given, tuple) and takes_first:
            given = given[0]
        if given is not None:
            return not _is_of(given, self._width)
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 2:
            return _outputs(module) != self._width
        # Both give a tuple. Newer code of EasyEdit takes the first of it.
        return not takes_first and (module in self._layers or is_called_attention(module))

    def _norm(self) -> Iterator[str]:
        for template in self._given("ln_f_module"):
            path = yield from self._filled(template, None)
            if path is None:
                continue
            given = _called(self._modules[path], self._width)
            if self._width is not None and not _is_of(given, self._width):
                yield f"{path} of {self._name} is no norm of hidden states"

    def _head(self) -> Iterator[str]:
        for template in self._given("lm_head_module"):
            path = yield from self._filled(template, None)
            if path is None:
                continue
            weight = self._parameters.get(f"{path}.weight")
            if weight is None and self._takes_any_weight():
                weight = getattr(self._modules[path], "weight", None)
            if weight is None:
                yield f"{self._name} has no parameter {path}.weight{self._shared(path)}"
            elif weight.dim() != 2 or self._width not in (None, weight.shape[1]):
                yield f"{path} of {self._name} is no output head, nor its embeddings"

    def _takes_any_weight(self) -> bool:
        """Whether the code takes the head's weight from the module, so that it may be shared."""
        looked_up = self.source.calls_of("get_parameter")
        if not any("lm_head_module}.weight" in call for call in looked_up):
            return True
        takes_both = any("(lm_head_module," in call for call in looked_up)
        return takes_both and any(part in self._path for part in READS_MODULES_WEIGHT)

    def _shared(self, path: str) -> str:
        """Say under which name the toolkit would find the weight of a module."""
        weight = getattr(self._modules[path], "weight", None)
        for name, parameter in self._parameters.items():
            if weight is parameter:
                return f": it is shared; write {name.removesuffix('.weight')}"
        return ""

    @cached_property
    def _layers(self) -> list[nn.Module]:
        """The layers, or none if ``layer_module_tmp`` is wrong, which every edit says."""
        with contextlib.suppress(ConfigError, KeyError):
            return layer_modules(self.model, str(self.settings["layer_module_tmp"]))
        return []

    def _inside(self, layers: Sequence[int]) -> Sequence[int]:
        """Return the layers that the model has, or else its first one to look up paths in."""
        total = len(self._layers)
        return [layer for layer in layers if 0 <= layer < total] or [0] if total else layers

    def _loss_layer(self) -> Iterator[tuple[bool, str]]:
        """Yield what is wrong with ``v_loss_layer``, and whether it is a fault."""
        value, last = self.settings.get("v_loss_layer"), len(self._layers) - 1
        if type(value) is not int or last < 0:
            return
        opens = self.source.reads("v_loss_layer") and self.source.reads("layer_module_tmp")
        if value > last:
            end = "" if opens else "; the editor does not open it"
            yield opens, f"{value} is outside {self._name}, whose layers are 0-{last}{end}"
        elif value < last and opens and self.source.reads("ln_f_module"):
            yield (
                False,
                f"{value} is not the last layer of {self._name}, {last}: the edit's loss is not "
                "that of what the model says",
            )

    def _filled(self, template: str, layer: int | None) -> Generator[str, None, str | None]:
        """Return the path of a module. If it is wrong, yield why and return None."""
        try:
            path = template if layer is None else template.format(layer)
        except (IndexError, KeyError, ValueError):
            yield f"{template!r} has not one {{}} for the layer"
            return None
        if path in self._modules and path:
            return path
        meant = self._meant(path, layer)
        question = f"; did you mean {meant}?" if meant not in ("", template) else ""
        yield f"{self._name} has no module {path}{question}"
        return None

    def _meant(self, path: str, layer: int | None) -> str:
        """Return the nearest path of the same depth, or an empty text."""
        alike = [name for name in self._modules if name.count(".") == path.count(".")]
        close = difflib.get_close_matches(path, alike or self._modules, 1, 0.7)
        if not close:
            return ""
        parts = close[0].split(".")
        numbers = [part for part in parts if part.isdecimal()]
        if layer is not None and numbers:
            parts[parts.index(numbers[0])] = "{}"
        return ".".join(parts)


def _outputs(module: nn.Module) -> int:
    """Return how many numbers a projection gives. GPT-2's is transposed and says it as ``nf``."""
    weight: Any = module.weight
    return int(getattr(module, "nf", weight.shape[0]))


def _is_of(given: Any, width: int | None) -> bool:
    """Whether what a module gives is hidden states of this width."""
    return isinstance(given, Tensor) and given.shape[-1] == width


@torch.no_grad()
def _called(module: nn.Module, width: int | None) -> Any:
    """Return what a module gives for hidden states alone. None if it cannot be called with them."""
    if width is None:
        return None
    try:
        kind = next((parameter.dtype for parameter in module.parameters()), torch.float32)
        return module(torch.empty(1, 2, width, dtype=kind, device="meta"))
    except Exception:  # it takes more, or something else
        return None
