"""Running EasyEdit's text editors where its whole import cannot run.

EasyEdit imports its vision stack with everything else, and its PyPI release places tensors on
``cuda:{device}`` whatever there is. Editing text needs neither. Both helpers change nothing of
EasyEdit: the one leaves packages' ``__init__`` files out, the other answers for CUDA within a
``with`` block.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from sadr_plugin.errors import SadrError

_BARE = ("easyeditor", "easyeditor.models", "easyeditor.editors", "easyeditor.trainer")


def import_text_only() -> None:
    """Make ``easyeditor.models.<method>`` importable without EasyEdit's other dependencies.

    Does nothing if EasyEdit is imported already. Whatever is imported afterwards through these
    packages is EasyEdit's own code; only the star imports of their ``__init__`` are left out,
    for the rest of the process.

    Raises:
        SadrError: EasyEdit is not installed.
    """
    if "easyeditor" in sys.modules:
        return
    found = importlib.util.find_spec("easyeditor")
    if found is None or not found.submodule_search_locations:
        raise SadrError(
            "EasyEdit is not installed: pip install --no-deps easyeditor, or put a checkout of "
            "its main branch on PYTHONPATH"
        )
    root = list(found.submodule_search_locations)
    for name in _BARE:
        inner = name.split(".")[1:]
        spec = ModuleSpec(name, loader=None, is_package=True)
        spec.submodule_search_locations = ["/".join([path, *inner]) for path in root]
        package = ModuleType(name)
        package.__spec__ = spec
        package.__path__ = spec.submodule_search_locations
        sys.modules[name] = package


class _CudaOnCpu(TorchFunctionMode):
    """Turns a request for a CUDA device into one for the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to:
            args = tuple(_on_cpu(argument) for argument in args)
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _on_cpu(kwargs["device"])}
        return func(*args, **kwargs)


def _on_cpu(device: Any) -> Any:
    if isinstance(device, torch.device):
        return torch.device("cpu") if device.type == "cuda" else device
    if isinstance(device, str):
        return "cpu" if device.startswith("cuda") else device
    return device


@contextmanager
def cuda_or_cpu() -> Iterator[None]:
    """Within the block, and in this thread, CUDA placements go to the CPU if there is no CUDA."""
    if torch.cuda.is_available():
        yield
    else:
        with _CudaOnCpu():
            yield
