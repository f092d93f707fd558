"""Which module of a layer computes its attention.

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
from functools import cache

from torch import nn

FUNCTIONS = {
    "interface": "attention_interface",
    "kernel": "scaled_dot_product_attention",
    "softmax": "softmax",
}
"""The functions whose call attention can be read at, by kind, best first."""

_SOFTMAX = re.compile(r"\bsoftmax\(")


def attention_module(layer: nn.Module) -> nn.Module | None:
    """The one module inside ``layer`` that computes attention, None if that cannot be told.

    Decides by the modules' source, as this module's docstring says.
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
    """The kinds of call that attention can be read at in a class's ``forward``."""
    source = method_source(module_class, "forward")
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
    called = re.findall(r"\bself\.(\w+)\(", method_source(module_class, "forward"))
    sources = {name: method_source(module_class, name) for name in called}
    return [name for name, source in sources.items() if len(_SOFTMAX.findall(source)) == 1]


def method_source(module_class: type, method: str) -> str:
    """The source of a class's method; empty if there is none."""
    try:
        return inspect.getsource(getattr(module_class, method))
    except (AttributeError, OSError, TypeError):
        return ""


def is_called_attention(module: nn.Module) -> bool:
    """Whether the module's class says that it is attention."""
    return "attention" in type(module).__name__.lower()
