import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from sadr_plugin.attention import (
    AttentionCall,
    attention_module,
    attention_rows,
    drifting_layers,
    layer_modules,
)
from sadr_plugin.errors import ConfigError, UnsupportedModelError
from sadr_plugin.tracing import AttentionTracer

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
MLP = {"intermediate_size": 48, "pad_token_id": 0}
MODELS = {
    "llama": (LlamaConfig(**SIZES, **MLP, num_key_value_heads=2), "model.layers.{}"),
    "mistral": (
        MistralConfig(**SIZES, **MLP, num_key_value_heads=2, sliding_window=4),
        "model.layers.{}",
    ),
    "qwen2": (Qwen2Config(**SIZES, **MLP, num_key_value_heads=4), "model.layers.{}"),
    "gemma2": (
        Gemma2Config(
            **SIZES,
            **MLP,
            num_key_value_heads=2,
            head_dim=8,
            sliding_window=4,
            attn_logit_softcapping=5.0,
            query_pre_attn_scalar=16,
        ),
        "model.layers.{}",
    ),
    "gpt_neox": (GPTNeoXConfig(**SIZES, **MLP), "gpt_neox.layers.{}"),
    "gpt2": (GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=4), "transformer.h.{}"),
    "gpt2_scaled_by_layer": (
        GPT2Config(
            vocab_size=60, n_embd=32, n_layer=3, n_head=4, scale_attn_by_inverse_layer_idx=True
        ),
        "transformer.h.{}",
    ),
    "gpt2_unscaled": (
        GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=4, scale_attn_weights=False),
        "transformer.h.{}",
    ),
}
EAGER_ONLY = {
    "gemma2": "softcap",
    "gpt2_scaled_by_layer": "scaling by layer",
    "gpt2_unscaled": "lack of scaling",
}


def build(name, implementation):
    torch.manual_seed(0)
    config, template = MODELS[name]
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.6)  # attention far from uniform
    return model.eval(), template


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_rows_are_the_models_own_eager_weights(name, implementation, side):
    if implementation == "sdpa" and name in EAGER_ONLY:
        pytest.skip(f"transformers' sdpa leaves the {EAGER_ONLY[name]} out: another model")
    model, template = build(name, implementation)
    ids = torch.randint(1, 60, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :4] = mask[2, :1] = 0
    if side == "right":
        mask = mask.flip(-1)
    # The last real token of the right-padded rows lies before the batch's end.
    position = torch.tensor([7, 8, 6]) if side == "left" else torch.tensor([7, 4, 6])
    attention = {
        index: attention_module(layer) for index, layer in enumerate(layer_modules(model, template))
    }
    with AttentionTracer(attention) as tracer:
        output, calls = tracer.run(lambda: model(input_ids=ids, attention_mask=mask))
    eager, _ = build(name, "eager")
    reference = eager(input_ids=ids, attention_mask=mask, output_attentions=True)
    real = mask.bool()
    torch.testing.assert_close(output.logits[real], reference.logits[real], atol=1e-4, rtol=1e-4)
    for call, weights in zip(calls, reference.attentions, strict=True):
        rows = attention_rows(call, position)
        torch.testing.assert_close(rows, weights[torch.arange(3), :, position], atol=1e-5, rtol=0)
        assert rows.requires_grad
    assert rows.max() > 0.3  # far from uniform (0.11), or the comparison says little


def test_a_module_that_attends_another_way_is_refused_at_its_first_forward():
    config = GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, reorder_and_upcast_attn=True)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    attention = {1: attention_module(model.transformer.h[1])}
    with (
        AttentionTracer(attention) as tracer,
        pytest.raises(UnsupportedModelError, match="GPT2Attention did not call its attention"),
    ):
        tracer.run(lambda: model(torch.tensor([[1, 2, 3]])))


def call(**changes):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 6, 8, generator=generator)
    key = torch.randn(2, 2, 6, 8, generator=generator)
    return AttentionCall(**{"query": query, "key": key, "mask": None, **changes})


@pytest.mark.parametrize("window", [None, 2])
def test_a_mask_of_real_tokens_means_causal_attention_among_them(window):
    real = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    position = torch.tensor([3, 5])
    rows = attention_rows(call(mask=real, sliding_window=window), position)
    causal = torch.ones(6, 6).tril().triu(-(window or 9) + 1).bool()
    full = (causal & real[:, None, :].bool()).unsqueeze(1)
    torch.testing.assert_close(rows, attention_rows(call(mask=full), position))
    assert (rows[0, :, 4:] == 0).all()
    assert (rows[1, :, :2] == 0).all()


def test_sinks_take_probability():
    sinks = torch.tensor([0.0, 1.0, 2.0, 3.0])
    position = torch.tensor([5, 2])
    rows = attention_rows(call(sinks=sinks), position)
    without = attention_rows(call(), position)
    torch.testing.assert_close(rows / rows.sum(-1, keepdim=True), without)
    assert (rows.sum(-1) < 1).all()


def test_a_mask_that_is_no_tensor_is_refused():
    with pytest.raises(UnsupportedModelError, match='attn_implementation="sdpa"'):
        AttentionCall.from_inputs((nn.Linear(1, 1), None, None, None, object()), {})


def test_layers_that_can_drift():
    assert drifting_layers(2, 6, None, "M") == [3, 4, 5]
    assert drifting_layers(2, 6, (0, 2, 3, 5), "M") == [3, 5]
    with pytest.raises(ConfigError, match=r"sadr.layers: 6 is outside M, whose layers are 0-5"):
        drifting_layers(2, 6, (6,), "M")
    with pytest.raises(ConfigError, match=r"no layer after the edited one \(5\)"):
        drifting_layers(5, 6, None, "M")
    with pytest.raises(ConfigError, match="edited layer 6 is outside M"):
        drifting_layers(6, 6, None, "M")


@pytest.mark.parametrize("template", ["model.blocks.{}", "model.layers", "model.layers.{}.mlp"])
def test_a_template_that_names_no_layers(tiny_llama, template):
    with pytest.raises(ConfigError, match="names no list of layers in LlamaForCausalLM"):
        layer_modules(tiny_llama, template)
