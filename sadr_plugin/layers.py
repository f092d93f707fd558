"""A model's layers: which can drift, and where in each attention is computed.

No architecture is known by name. A module computes attention if its ``forward`` calls one of three
functions:

- ``attention_interface``, by which transformers reaches every attention kernel;
- ``scaled_dot_product_attention``, torch's own and no other of that name;
- ``softmax``, in ``forward`` or a method of the module's own that ``forward`` calls, in a class
  whose name says attention (a router has a softmax too).

The first kind found in a layer decides, and there has to be one such module. What cannot be told
so is a matter for a ``sadr_attention_module`` hook.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from functools import cache

from pluggy import HookRelay
from torch import nn

from .config import SadrConfig
from .edit import Edit
from .errors import ConfigError, UnsupportedModelError

FUNCTIONS = {
    "interface": "attention_interface",
    "kernel": "scaled_dot_product_attention",
    "softmax": "softmax",
}
"""The functions whose call attention can be read at, by kind, best first."""


def attention_module(layer: nn.Module) -> nn.Module | None:
    """The one module inside ``layer`` that computes attention, None if that cannot be told.

    Decides by the modules' source, as this module's docstring says.
    """
    for kind in FUNCTIONS:
        found = [module for module in layer.modules() if kind in _kinds(type(module))]  # type: ignore[arg-type]
        if kind == "softmax":
            found = [module for module in found if _is_called_attention(module)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


@cache
def _kinds(module_class: type) -> frozenset[str]:
    """The kinds of call that attention can be read at in a class's ``forward``."""
    source = _source(module_class, "forward")
    kinds = {kind for kind in FUNCTIONS if calls(kind, source)}
    if "kernel" in kinds and not _is_torchs_kernel(module_class, source):
        kinds.remove("kernel")
    return frozenset(kinds | ({"softmax"} if softmax_methods(module_class) else set()))


def _is_torchs_kernel(module_class: type, source: str) -> bool:
    """Whether what ``forward`` calls by the kernel's name is torch's; others mask otherwise."""
    names = getattr(inspect.unwrap(module_class.forward), "__globals__", {})  # type: ignore[attr-defined]
    for path in re.findall(rf"([\w.]*)\b{FUNCTIONS['kernel']}\(", source):
        first, *rest = [*filter(None, path.split(".")), FUNCTIONS["kernel"]]
        found = names.get(first)
        for name in rest:
            found = getattr(found, name, None)
        if found is not nn.functional.scaled_dot_product_attention:
            return False
    return True


def calls(kind: str, source: str) -> bool:
    """Whether ``source`` holds a call of that kind."""
    return re.search(rf"\b{FUNCTIONS[kind]}\(", source) is not None


def softmax_methods(module_class: type) -> list[str]:
    """The methods of its own that a class's ``forward`` calls and that call one softmax."""
    called = dict.fromkeys(re.findall(r"\bself\.(\w+)\(", _source(module_class, "forward")))
    return [
        name for name in called if len(re.findall(r"\bsoftmax\(", _source(module_class, name))) == 1
    ]


def _source(module_class: type, method: str) -> str:
    try:
        return inspect.getsource(getattr(module_class, method))
    except (AttributeError, OSError, TypeError):
        return ""


def _is_called_attention(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower()


def attention_modules(edit: Edit, config: SadrConfig, hooks: HookRelay) -> dict[int, nn.Module]:
    """The attention module of each layer that is restricted.

    Layers of a hybrid model that have no attention are left out.

    Raises:
        UnsupportedModelError: naming the model's class and the first layer at fault.
    """
    model_name = type(edit.model).__name__
    layers = layer_modules(edit.model, edit.layer_template)
    owners = Counter(module for layer in layers for module in layer.modules())
    modules: dict[int, nn.Module] = {}
    for index in drifting_layers(edit.layer, len(layers), config.layers, model_name):
        module = hooks.sadr_attention_module(model=edit.model, layer=layers[index])
        if module is not None and owners[module] > 1:
            raise UnsupportedModelError(
                f"{model_name} is not supported: its layer {index} shares its "
                f"{type(module).__name__} with another, and SADR cannot tell the one's attention "
                "from the other's"
            )
        if module is not None:
            modules[index] = module
        elif any(map(_is_called_attention, layers[index].modules())):
            raise UnsupportedModelError(
                f"{model_name} is not supported: SADR cannot tell where its layer {index} "
                f"({type(layers[index]).__name__}) computes attention. A sadr_attention_module "
                "hook can point at the module; sadr.layers can leave the layer out"
            )
    if not modules:
        raise UnsupportedModelError(
            f"{model_name} is not supported: none of its layers after the edited one "
            f"({edit.layer}) computes attention ({type(layers[-1]).__name__}), so there is none "
            "that could drift"
        )
    return modules


def layer_modules(model: nn.Module, layer_template: str) -> list[nn.Module]:
    """The model's layers, in order.

    Args:
        model: the model that is edited.
        layer_template: where they are, e.g. ``"model.layers.{}"`` (EasyEdit's
            ``layer_module_tmp``).

    Raises:
        ConfigError: the template names no list of modules in this model.
    """
    path, hole, rest = layer_template.partition(".{}")
    try:
        parent = model.get_submodule(path) if hole and not rest else None
    except AttributeError:
        parent = None
    if not isinstance(parent, nn.ModuleList) or len(parent) == 0:
        raise ConfigError(
            f"layer_module_tmp: {layer_template!r} names no list of layers in "
            f"{type(model).__name__}"
        )
    return list(parent)


def drifting_layers(
    edited: int, total: int, wanted: tuple[int, ...] | None, model_name: str
) -> list[int]:
    """The layers to restrict: those after the edited one, of them only the ``wanted``.

    Raises `ConfigError` for a layer outside the model and when none is left.
    """
    if not 0 <= edited < total:
        raise ConfigError(f"the edited layer {edited} is outside {model_name} (0-{total - 1})")
    outside = [layer for layer in wanted or () if layer >= total]
    if outside:
        raise ConfigError(
            f"sadr.layers: {outside[0]} is outside {model_name}, whose layers are 0-{total - 1}"
        )
    layers = [layer for layer in range(edited + 1, total) if wanted is None or layer in set(wanted)]
    if not layers:
        raise ConfigError(
            f"sadr.layers: no layer after the edited one ({edited}) is among them, and only "
            f"those can drift; {model_name} has layers 0-{total - 1}"
        )
    return layers
