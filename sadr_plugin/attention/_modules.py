"""Find the module of a layer that computes its attention.

No architecture is known by name. A module computes attention if its ``forward`` calls one of three
functions:

- ``attention_interface``, through which transformers calls every attention kernel;
- ``scaled_dot_product_attention``, if it is torch's own function;
- ``softmax``, in ``forward`` or in a method of the module that ``forward`` calls. The name of the
  class has to contain "attention", because a router has a softmax, too.

The first of these functions that occurs in a layer decides. Exactly one module of the layer has to
call it. In other cases, a ``sadr_attention_module`` hook can name the module.
"""

from __future__ import annotations

import inspect
import re
from functools import cache

from torch import nn

FUNCTIONS = {
    "interface": "attention_interface",
    "kernel": "scaled_dot_product_attention",
    "softmax": "softmax",
}
"""The functions at whose call attention can be read, by kind, best first."""

_SOFTMAX = re.compile(r"\bsoftmax\(")


def attention_module(layer: nn.Module) -> nn.Module | None:
    """Return the one module inside ``layer`` that computes attention, None if it is not clear.

    The source of the modules decides; see the docstring of `sadr_plugin.attention._modules`.
    """
    for kind in FUNCTIONS:
        found = [module for module in layer.modules() if kind in _kinds(type(module))]  # type: ignore[arg-type]
        if kind == "softmax":
            found = [module for module in found if is_called_attention(module)]
        if found:
            return found[0] if len(found) == 1 else None
    return None


@cache
def _kinds(module_class: type) -> frozenset[str]:
    """Return the kinds of readable calls in the ``forward`` of a class."""
    source = method_source(module_class, "forward")
    kinds = {kind for kind in FUNCTIONS if calls(kind, source)}
    if "kernel" in kinds and not _is_torchs_kernel(module_class, source):
        kinds.remove("kernel")
    return frozenset(kinds | ({"softmax"} if softmax_methods(module_class) else set()))


def _is_torchs_kernel(module_class: type, source: str) -> bool:
    """Whether the kernel that ``forward`` calls is torch's. Other kernels may mask differently."""
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
    """Whether ``source`` contains a call of this kind."""
    return re.search(rf"\b{FUNCTIONS[kind]}\(", source) is not None


def softmax_methods(module_class: type) -> list[str]:
    """Return the methods that a class's ``forward`` calls on itself and that call one softmax."""
    called = re.findall(r"\bself\.(\w+)\(", method_source(module_class, "forward"))
    sources = {name: method_source(module_class, name) for name in called}
    return [name for name, source in sources.items() if len(_SOFTMAX.findall(source)) == 1]


def method_source(module_class: type, method: str) -> str:
    """Return the source of a class's method, or "" if there is none."""
    try:
        return inspect.getsource(getattr(module_class, method))
    except (AttributeError, OSError, TypeError):
        return ""


def is_called_attention(module: nn.Module) -> bool:
    """Whether the class name of a module contains "attention"."""
    return "attention" in type(module).__name__.lower()


def implementation(module: nn.Module) -> str | None:
    """Return the attention implementation of a model, or of a module with its configuration."""
    config = getattr(module, "config", None)
    found: str | None = getattr(config, "_attn_implementation", None)
    return found


def remedy(module: nn.Module) -> str:
    """Say what to do if the attention of a model, or of a module in it, cannot be read.

    Only implementations that are not in force already, and that the model has, are suggested.
    """
    known = ["eager", "sdpa"] if getattr(module, "_supports_sdpa", False) else ["eager"]
    in_force = implementation(module)
    others = [name for name in known if name != in_force]
    leave_out = (
        "leave such layers out with sadr.layers, or point at another module with a "
        "sadr_attention_module hook"
    )
    if in_force is None or not others:
        return leave_out
    other = f"load it with attn_implementation={others[0]!r}"
    return f"it attends by {in_force!r}; {other}, or {leave_out}"
