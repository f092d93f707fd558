"""One way of reading attention under every implementation and precision."""

import re

import pytest
import torch
import transformers
from transformers import AttentionInterface

import sadr_plugin
from sadr_plugin.attention._layers import Watch
from sadr_plugin.attention._tracer import tracer_for
from sadr_plugin.models._architectures import ARCHITECTURES, build

IDS = torch.randint(1, 60, (3, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [1] * 8 + [0]])
POSITION = torch.tensor([7, 4, 6])
MASKS_HAVE_AN_INTERFACE = hasattr(transformers, "AttentionMaskInterface")


def small(name, implementation, **options):
    architecture = next(found for found in ARCHITECTURES if found.name == name)
    return build(architecture, implementation, **options)


def seen(model, mask=MASK):
    """The rows of every layer after the first, and the output."""
    watch = Watch(model, "model.layers.{}", edited=0)
    with tracer_for(watch, sadr_plugin.plugin_manager().hook) as tracer:
        output, attentions = tracer.run(
            lambda: model(input_ids=IDS, attention_mask=mask, use_cache=False)
        )
    return torch.stack([attention.rows(POSITION) for attention in attentions]), output


def expected(name, **options):
    eager = small(name, "eager", **options)
    weights = eager(
        input_ids=IDS, attention_mask=MASK, use_cache=False, output_attentions=True
    ).attentions
    return torch.stack([layer[torch.arange(3), :, POSITION] for layer in weights[1:]])


def no_weights(module, query, key, value, attention_mask, scaling=None, **_):
    """Stands in for flash attention, which needs a GPU: gives no weights back, and takes a mask of
    real tokens where transformers lets it choose."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    if attention_mask is not None:
        assert attention_mask.dim() == (2 if MASKS_HAVE_AN_INTERFACE else 4)
        if attention_mask.dim() == 2:
            mask = mask & attention_mask[:, None, None].bool()
        else:
            mask = attention_mask
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling
    )
    return output.transpose(1, 2).contiguous(), None


@pytest.fixture
def stand_in():
    """An implementation by which transformers gives masks as it does for flash attention."""
    AttentionInterface.register("stand_in", no_weights)
    if MASKS_HAVE_AN_INTERFACE:
        from transformers.masking_utils import flash_attention_mask

        transformers.AttentionMaskInterface.register("stand_in", flash_attention_mask)
    return "stand_in"


@pytest.mark.parametrize("name", ["llama", "qwen3 (q/k norm)", "phi3"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa", "stand_in"])
def test_rows_and_their_gradients(name, implementation, stand_in):
    model = small(name, implementation)
    rows, _ = seen(model)
    own = expected(name)
    torch.testing.assert_close(rows, own, atol=1e-5, rtol=0)
    # The gradient of some function of the rows, at the first layer's MLP, is the model's own.
    weight = torch.randn(rows.shape, generator=torch.Generator().manual_seed(2))
    found = gradient(model, (rows * weight).sum())
    eager = small(name, "eager")
    own = eager(input_ids=IDS, attention_mask=MASK, use_cache=False, output_attentions=True)
    own = torch.stack([layer[torch.arange(3), :, POSITION] for layer in own.attentions[1:]])
    right = gradient(eager, (own * weight).sum())
    assert (found - right).norm() < 1e-4 * right.norm()


def gradient(model, loss):
    (found,) = torch.autograd.grad(loss, [model.model.layers[0].mlp.down_proj.weight])
    return found


@pytest.mark.parametrize("name", ["llama", "gemma2 (softcap)", "mistral (sliding window)"])
def test_flex_attention(name):
    """On the CPU flex attention runs without gradients only; its rows are the same."""
    model = small(name, "flex_attention")
    try:
        with torch.no_grad():
            rows, _ = seen(model)
    except torch._inductor.exc.InductorError as error:
        if not re.search("torch.compile on CPU only supports|CxxCompiler", str(error)):
            raise
        pytest.skip("flex attention needs a newer transformers, and a C++ compiler, on a CPU")
    torch.testing.assert_close(rows, expected(name), atol=1e-5, rtol=0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, implementation):
    """Rows are computed in float32 from the model's own query and key."""
    model = small("llama", implementation).to(dtype)
    rows, _ = seen(model)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]), atol=1e-6, rtol=0)
    eager = small("llama", "eager").to(dtype)
    own = eager(input_ids=IDS, attention_mask=MASK, use_cache=False, output_attentions=True)
    own = torch.stack([layer[torch.arange(3), :, POSITION] for layer in own.attentions[1:]])
    # The model rounds its scores and weights to some 3 (bfloat16) or 4 digits; SADR does not.
    tolerance = 0.06 if dtype == torch.bfloat16 else 0.01
    torch.testing.assert_close(rows, own.float(), atol=tolerance, rtol=0)
    (found,) = torch.autograd.grad(rows[..., 0].sum(), [model.model.layers[0].mlp.down_proj.weight])
    assert found.dtype == dtype
    assert found.abs().sum() > 0
