from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sadr_plugin.attention._layers import drifting_layers, layer_modules
from sadr_plugin.attention._rows import AttentionCall, AttentionWeights, Span
from sadr_plugin.errors import ConfigError, UnsupportedModelError


def call(**changes):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 6, 8, generator=generator)
    key = torch.randn(2, 2, 6, 8, generator=generator)
    return AttentionCall(**{"query": query, "key": key, "mask": None, **changes})


@pytest.mark.parametrize("window", [None, 2])
def test_a_mask_of_real_tokens_means_causal_attention_among_them(window):
    real = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    position = torch.tensor([3, 5])
    rows = call(mask=real, sliding_window=window).rows(position)
    causal = torch.ones(6, 6).tril().triu(-(window or 9) + 1).bool()
    full = (causal & real[:, None, :].bool()).unsqueeze(1)
    torch.testing.assert_close(rows, call(mask=full).rows(position))
    assert (rows[0, :, 4:] == 0).all()
    assert (rows[1, :, :2] == 0).all()


def test_sinks_take_probability():
    sinks = torch.tensor([0.0, 1.0, 2.0, 3.0])
    position = torch.tensor([5, 2])
    rows = call(sinks=sinks).rows(position)
    without = call().rows(position)
    torch.testing.assert_close(rows / rows.sum(-1, keepdim=True), without)
    assert (rows.sum(-1) < 1).all()


def test_a_mask_that_is_no_tensor_is_refused():
    module = nn.Linear(1, 1)
    module.config = SimpleNamespace(_attn_implementation="paged")
    with pytest.raises(UnsupportedModelError, match="attn_implementation='eager'"):
        AttentionCall.from_inputs((module, None, None, None, object()), {})


def test_weights_of_another_shape_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"shape \(8, 6, 6\) cannot be read"):
        AttentionWeights(torch.zeros(8, 6, 6)).rows(torch.tensor([1]))


def test_rows_are_float32_under_autocast():
    position = torch.tensor([3, 5])
    expected = call().rows(position)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = call().rows(position)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_keys_in_a_buffer_that_is_longer_than_the_batch():
    """Its end is masked. Whether the queries were cut is seen by their number, not by the keys'."""
    position = torch.tensor([3, 5])
    whole = call()
    keys = torch.cat([whole.key, torch.ones(2, 2, 3, 8)], dim=2)
    mask = torch.cat([torch.ones(6, 6).tril(), torch.zeros(6, 3)], dim=1).bool()[None, None]
    buffered = call(key=keys, mask=mask)
    span = Span(torch.tensor([2, 3]), 3)
    expected = whole.rows(position)
    for found in (buffered.rows(position), buffered.rows(position, span)):
        torch.testing.assert_close(found, expected)
    scores = whole.query @ keys.repeat_interleave(2, 1).transpose(-1, -2) * 8**-0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    for found in (AttentionWeights(weights).rows(position, s) for s in (None, span)):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("keys", [8, 4])
def test_keys_of_other_tokens_are_refused(keys):
    """As with a trained prefix, which comes first, and with a window that leaves tokens out."""
    prefix = torch.ones(6, 8).tril(2).bool()[None, None, :, :keys]
    with pytest.raises(UnsupportedModelError, match=f"6 tokens attend to {keys} keys"):
        call(key=torch.ones(2, 2, keys, 8), mask=prefix).rows(torch.tensor([3, 5]))


@pytest.mark.parametrize("dimensions", [2, 3, 4])
@pytest.mark.parametrize("additive", [False, True])
def test_masks_as_torchs_kernel_takes_them(dimensions, additive):
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 4, 6, 8, generator=generator) for _ in range(2))
    mask = torch.ones(6, 6, dtype=torch.bool).tril().triu(-2)
    if additive:
        mask = torch.zeros(6, 6).masked_fill(~mask, -torch.inf)
    mask = mask.view(*[1] * (dimensions - 2), 6, 6)
    found = AttentionCall.from_kernel((query, key, None), {"attn_mask": mask})
    position = torch.tensor([3, 5])
    # The kernel's own weights: what it makes of the unit vectors as values.
    unit = torch.eye(6).expand(2, 4, 6, 6)
    own = nn.functional.scaled_dot_product_attention(query, key, unit, attn_mask=mask)
    torch.testing.assert_close(found.rows(position), own[torch.arange(2), :, position])
    for causal in (False, True):
        found = AttentionCall.from_kernel((query, key, None), {"is_causal": causal})
        own = nn.functional.scaled_dot_product_attention(query, key, unit, is_causal=causal)
        torch.testing.assert_close(found.rows(position), own[torch.arange(2), :, position])


def test_layers_that_can_drift():
    assert drifting_layers(2, 6, None, "M") == [3, 4, 5]
    assert drifting_layers(2, 6, (0, 2, 3, 5), "M") == [3, 5]
    with pytest.raises(ConfigError, match=r"sadr.layers: 6 is outside M, whose layers are 0-5"):
        drifting_layers(2, 6, (6,), "M")
    with pytest.raises(ConfigError, match=r"^layer: the edited layer 5 is the last one of M"):
        drifting_layers(5, 6, None, "M")
    with pytest.raises(ConfigError, match=r"^layer: the edited layer 6 is outside M, whose"):
        drifting_layers(6, 6, None, "M")
    with pytest.raises(ConfigError, match=r"no layer after the edited one \(2\) is among them"):
        drifting_layers(2, 6, (0, 2), "M")


@pytest.mark.parametrize("template", ["model.blocks.{}", "model.layers", "model.layers.{}.mlp"])
def test_a_template_that_names_no_layers(tiny_llama, template):
    with pytest.raises(ConfigError, match=r"^layer_template: .* names no list of layers in Llama"):
        layer_modules(tiny_llama, template)
