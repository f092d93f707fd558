"""Models that are not whole, not on one device, or wrapped: edited as the plain model is, or
refused before the first step."""

import importlib.util

import accelerate
import pytest
import torch

from sadr_plugin.errors import UnsupportedModelError
from smalledit.hparams import SmallHparams
from support import attributes, tiny_llama

FLAG = {"gamma": 1.0, "select_heads": False}


def edit(small, model, tok, request, sadr=FLAG, layers="model.layers.{}", **options):
    hparams = SmallHparams(sadr=sadr)
    hparams.layer_module_tmp = layers
    return small.optimise(model, tok, request, hparams, **options)


@pytest.fixture
def plain(small, word_tokenizer, request_):
    """The vector and losses of the plain model."""
    return edit(small, tiny_llama(), word_tokenizer, request_)


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert found[1] == pytest.approx(expected[1], rel=1e-4)


def offloaded(kind, folder):
    model = tiny_llama()
    if kind == "cpu":
        return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    if kind == "disk":
        return accelerate.disk_offload(model, str(folder), execution_device=torch.device("cpu"))
    # Layers here and there: some at hand, some on the disk and fetched for each forward.
    devices = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    devices |= {"model.rotary_emb": "cpu"}
    devices |= {f"model.layers.{i}": "cpu" if i % 2 else "disk" for i in range(4)}
    return accelerate.dispatch_model(
        model, devices, main_device="cpu", offload_dir=str(folder), force_hooks=True
    )


@pytest.mark.parametrize("kind", ["cpu", "disk", "dispatch"])
def test_offloaded(kind, small, small_adapter, word_tokenizer, request_, plain, tmp_path):
    model = offloaded(kind, tmp_path)
    before = attributes(model)
    assert_same(edit(small, model, word_tokenizer, request_), plain)
    assert attributes(model) == before
    assert small_adapter.reports[-1].steps[-1].penalty > 0
    assert small_adapter.reports[-1].reused > 0.4


def test_gradient_checkpointing(small, word_tokenizer, request_, plain):
    model = tiny_llama().train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same(edit(small, model, word_tokenizer, request_), plain)


def test_reentrant_checkpointing_is_refused(small, word_tokenizer, request_):
    model = tiny_llama().train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    before, steps = attributes(model), []
    with pytest.raises(UnsupportedModelError, match="use_reentrant=False"):
        edit(small, model, word_tokenizer, request_, on_step=steps.append)
    assert steps == []
    assert attributes(model) == before


@pytest.mark.parametrize("how", ["wrapped", "in place", "a layer"])
def test_compiled(how, small, word_tokenizer, request_):
    model = tiny_llama()
    if how == "wrapped":
        model = torch.compile(model)
    elif how == "in place":
        model.compile()
    else:
        model.model.layers[2].compile()
    steps = []
    with pytest.raises(UnsupportedModelError, match=r"compiled by torch\.compile"):
        edit(small, model, word_tokenizer, request_, on_step=steps.append)
    assert steps == []


def test_compiled_after_an_edit(small, word_tokenizer, request_):
    model = tiny_llama()
    edit(small, model, word_tokenizer, request_)
    batch = word_tokenizer(["the tower is in"], return_tensors="pt")
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(**batch).logits, model(**batch).logits)


def test_lora(small, word_tokenizer, request_, plain):
    peft = pytest.importorskip("peft", reason="peft is installed beside transformers 5 alone")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(tiny_llama(), config).eval()
    before = attributes(model)
    # A fresh adapter changes nothing, so the edit is the plain model's.
    layers = "base_model.model.model.layers.{}"
    assert_same(edit(small, model, word_tokenizer, request_, layers=layers), plain)
    assert attributes(model) == before


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is installed beside transformers 5 alone",
)
def test_eight_bits(small, word_tokenizer, request_, plain):
    import bitsandbytes

    model = tiny_llama()
    for layer in model.model.layers:
        for parent, name in ((layer.self_attn, "q_proj"), (layer.mlp, "up_proj")):
            full = getattr(parent, name)
            eight = bitsandbytes.nn.Linear8bitLt(
                full.in_features, full.out_features, bias=False, has_fp16_weights=False
            )
            eight.load_state_dict(full.state_dict())
            setattr(parent, name, eight.to("cpu"))
    vector, losses = edit(small, model, word_tokenizer, request_)
    assert losses == pytest.approx(plain[1], rel=0.02)
    assert torch.nn.functional.cosine_similarity(vector, plain[0], dim=0) > 0.98
