"""A model's unedited weights: put back, and seen to be back, to the bit."""

import accelerate
import pytest
import torch

from sadr_plugin.errors import EvaluationError
from sadr_plugin.evaluation import UneditedWeights
from support import tiny_llama

NAME = "model.layers.2.mlp.down_proj.weight"
OTHER = "model.layers.3.mlp.up_proj.weight"


@pytest.fixture
def model():
    return tiny_llama().requires_grad_(False)


def test_put_back_to_the_bit(model):
    unedited = UneditedWeights(model, [NAME])
    before = model.get_parameter(NAME).clone()
    model.get_parameter(NAME).add_(1.0)
    (change,) = unedited.changes().values()
    assert change == pytest.approx((before.numel() ** 0.5 / before.norm()).item())
    unedited.restore()
    assert torch.equal(model.get_parameter(NAME), before)
    assert unedited.changes() == {NAME: 0}
    unedited.check()


def test_a_parameter_that_was_replaced(model):
    unedited = UneditedWeights(model, [NAME])
    own = model.get_parameter(NAME)
    model.model.layers[2].mlp.down_proj.weight = torch.nn.Parameter(own * 2, requires_grad=False)
    assert unedited.changes()[NAME] == pytest.approx(1)
    unedited.restore()
    assert model.get_parameter(NAME) is own
    unedited.check()


def flipped(model):
    other = model.get_parameter(OTHER)
    other.copy_(other.flip(0))  # no sum shows it


def by_data(model):
    model.get_parameter(OTHER).data[0, 0] += 1


def replaced(model):
    projection = model.model.layers[3].mlp.up_proj
    projection.weight = torch.nn.Parameter(projection.weight * 1.5, requires_grad=False)


def buffer(model):
    model.model.rotary_emb.inv_freq.mul_(2)


@pytest.mark.parametrize("change", [flipped, replaced, buffer])
def test_another_change_is_seen_at_once(model, change):
    unedited = UneditedWeights(model, [NAME])
    change(model)
    with pytest.raises(EvaluationError, match=r"differ from before: .*(up_proj\.weight|inv_freq);"):
        unedited.restore()


def test_a_change_behind_torchs_back_is_seen_in_the_end(model):
    unedited = UneditedWeights(model, [NAME])
    by_data(model)
    unedited.restore()
    with pytest.raises(EvaluationError, match=r"differ from before: .*up_proj\.weight"):
        unedited.check()


def test_a_weight_that_was_added(model):
    unedited = UneditedWeights(model, [NAME])
    model.register_buffer("more", torch.zeros(1))
    with pytest.raises(EvaluationError, match="differ from before: more;"):
        unedited.check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model = tiny_llama().to(dtype).requires_grad_(False)
    unedited = UneditedWeights(model, [NAME])
    saved = unedited.edited()
    model.get_parameter(NAME).mul_(1.5)
    unedited.load(saved)
    unedited.check()
    flipped(model)
    with pytest.raises(EvaluationError):
        unedited.check()


def test_on_disk(model, tmp_path):
    """What accelerate holds elsewhere is looked at in the end; what is edited has to be here."""
    devices = {f"model.layers.{i}": "disk" if i > 2 else "cpu" for i in range(4)}
    devices |= dict.fromkeys(
        ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu"
    )
    accelerate.dispatch_model(
        model, devices, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True
    )
    assert model.get_parameter(OTHER).is_meta
    unedited = UneditedWeights(model, [NAME])
    model.get_parameter(NAME).add_(1.0)
    model(torch.tensor([[1, 2, 3]]))
    unedited.restore()
    unedited.check()
    with pytest.raises(EvaluationError, match="is offloaded, so no edit can change it"):
        UneditedWeights(model, [OTHER])
    file = next(tmp_path.glob("model.layers.3.mlp.up_proj.weight*"))
    content = bytearray(file.read_bytes())
    content[5] ^= 255
    file.write_bytes(content)
    with pytest.raises(EvaluationError, match=r"differ from before: .*up_proj\.weight"):
        unedited.check()


def test_a_parameter_that_is_not_there(model):
    with pytest.raises(EvaluationError, match="the model has no parameter nowhere"):
        UneditedWeights(model, ["nowhere"])


def test_the_change_of_a_weight_that_was_zero(model):
    model.get_parameter(NAME).zero_()
    unedited = UneditedWeights(model, [NAME])
    assert unedited.changes() == {NAME: 0}
    model.get_parameter(NAME).add_(1.0)
    assert unedited.changes() == {NAME: float("inf")}
