"""Run a toolkit that supports only CUDA on a machine without CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class _CudaOnCpu(TorchFunctionMode):
    """Replaces requests for a CUDA device with requests for the CPU."""

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
        if func is torch.Tensor.to and len(args) > 1:
            args = (args[0], _on_cpu(args[1]), *args[2:])
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _on_cpu(kwargs["device"])}
        return func(*args, **kwargs)


def _on_cpu(device: Any) -> Any:
    if isinstance(device, torch.device):
        return torch.device("cpu") if device.type == "cuda" else device
    if type(device) is int:  # of a CUDA device
        return "cpu"
    if isinstance(device, str):
        return "cpu" if device.startswith("cuda") else device
    return device


@contextmanager
def cuda_or_cpu() -> Iterator[None]:
    """Inside the block, move CUDA placements to the CPU if there is no CUDA.

    This applies to the current thread only.
    """
    if torch.cuda.is_available():
        yield
    else:
        with _CudaOnCpu():
            yield
