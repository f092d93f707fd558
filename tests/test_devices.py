"""A toolkit that knows only CUDA, run on a machine without it."""

import pytest
import torch

from sadr_plugin.devices import cuda_or_cpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")


@pytest.mark.parametrize("device", [0, "cuda", "cuda:0", torch.device("cuda", 0)])
def test_cuda_is_the_cpu(device):
    here = torch.ones(2)
    with cuda_or_cpu():
        moved = [
            here.to(device),
            here.to(device, torch.float64, False, True),
            here.to(device=device),
            here.cuda(),
            torch.zeros(2, device=device),
        ]
    assert {str(tensor.device) for tensor in moved} == {"cpu"}
    assert moved[1].dtype == torch.float64


def test_other_arguments_stay():
    here = torch.ones(2)
    with cuda_or_cpu():
        assert here.to(torch.float16).dtype == torch.float16
        assert here.to("meta").device.type == "meta"
