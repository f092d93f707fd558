"""The layers of a model: where they are, which can drift, and their attention modules."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from pluggy import HookRelay
from torch import nn

from ..errors import ConfigError, UnsupportedModelError
from ._modules import is_called_attention


@dataclass(frozen=True)
class Watch:
    """Where attention is watched.

    Attributes:
        model: the model that is edited.
        layer_template: the path of its layers, such as ``"model.layers.{}"``.
        edited: the edited layer. Later layers are watched.
        wanted: the layers of ``sadr.layers``. Only these are watched. None for all.
    """

    model: nn.Module
    layer_template: str
    edited: int
    wanted: tuple[int, ...] | None = None


def attention_modules(watch: Watch, hooks: HookRelay) -> dict[int, nn.Module]:
    """Return the attention module of each watched layer.

    Layers without attention, as in hybrid models, are left out.

    Raises:
        ConfigError: a layer is outside the model, or no layer is left.
        UnsupportedModelError: the attention of a layer cannot be found or is shared with another
            layer, or no layer has attention. The message names the model's class and the first such
            layer.
    """
    model_name = type(watch.model).__name__
    layers = layer_modules(watch.model, watch.layer_template)
    owners = Counter(module for layer in layers for module in layer.modules())
    modules: dict[int, nn.Module] = {}
    for index in drifting_layers(watch.edited, len(layers), watch.wanted, model_name):
        module = hooks.sadr_attention_module(model=watch.model, layer=layers[index])
        if module is not None and owners[module] > 1:
            raise UnsupportedModelError(
                f"{model_name} is not supported: its layer {index} shares its "
                f"{type(module).__name__} with another layer, so SADR cannot tell their attention "
                "apart; leave these layers out with sadr.layers"
            )
        if module is not None:
            modules[index] = module
        elif any(map(is_called_attention, layers[index].modules())):
            raise UnsupportedModelError(
                f"{model_name} is not supported: SADR cannot tell where its layer {index} "
                f"({type(layers[index]).__name__}) computes attention. A sadr_attention_module "
                "hook can point at the module; sadr.layers can leave the layer out"
            )
    if not modules:
        raise UnsupportedModelError(
            f"{model_name} is not supported: none of its layers after the edited one "
            f"({watch.edited}) computes attention ({type(layers[-1]).__name__}), so there is none "
            "that could drift"
        )
    return modules


def layer_modules(model: nn.Module, layer_template: str) -> list[nn.Module]:
    """Return the model's layers, in order.

    Args:
        model: the model that is edited.
        layer_template: the path of the layers, such as ``"model.layers.{}"``.

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
            f"layer_template: {layer_template!r} names no list of layers in "
            f"{type(model).__name__}; print the model to see their path (EasyEdit's key is "
            "layer_module_tmp)"
        )
    return list(parent)


def drifting_layers(
    edited: int, total: int, wanted: tuple[int, ...] | None, model_name: str
) -> list[int]:
    """Return the layers to restrict: those after the edited one, limited to ``wanted`` if given.

    Raises:
        ConfigError: a layer is outside the model, or no layer is left.
    """
    if not 0 <= edited < total:
        raise ConfigError(
            f"layer: the edited layer {edited} is outside {model_name}, whose layers are "
            f"0-{total - 1} (EasyEdit's key is layers)"
        )
    outside = [layer for layer in wanted or () if layer >= total]
    if outside:
        raise ConfigError(
            f"sadr.layers: {outside[0]} is outside {model_name}, whose layers are 0-{total - 1}"
        )
    layers = [layer for layer in range(edited + 1, total) if wanted is None or layer in set(wanted)]
    if not layers and wanted is None:
        raise ConfigError(
            f"layer: the edited layer {edited} is the last one of {model_name}, and no attention "
            "comes after it that could drift; edit a lower layer (EasyEdit's key is layers)"
        )
    if not layers:
        raise ConfigError(
            f"sadr.layers: no layer after the edited one ({edited}) is among them, and only "
            f"those can drift; {model_name} has layers 0-{total - 1}"
        )
    return layers
