"""Every architecture in the table of models: SADR's rows are the model's own eager weights."""

import json

import accelerate
import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

import sadr_plugin
from sadr_plugin.attention._layers import Watch
from sadr_plugin.attention._modules import attention_module
from sadr_plugin.attention._rows import AttentionCall
from sadr_plugin.attention._tracer import tracer_for
from sadr_plugin.commands import _models
from sadr_plugin.commands.cli import build as command_line
from sadr_plugin.errors import UnsupportedModelError
from sadr_plugin.models import _check
from sadr_plugin.models._architectures import ARCHITECTURES, build
from sadr_plugin.models._check import TOLERANCE, check
from sadr_plugin.models._reuse_check import REUSE_TOLERANCE
from sadr_plugin.testing import registered
from support import exists

# What a release of transformers has no such kernel for, or computes otherwise by it.
WITHOUT_SDPA = {
    *("gptj", "gpt_neo", "bloom", "falcon", "mpt", "gemma2", "gpt_oss", "mamba", "recurrent_gemma")
}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda found: found.name)
def test_rows_are_the_models_own_eager_weights(architecture, implementation):
    if not exists(architecture.model_type):
        pytest.skip(f"this transformers has no {architecture.model_type}")
    found = check(architecture, implementation)
    if not architecture.supported:
        assert found.difference is None
        if implementation == "eager":
            assert "none of its layers after the edited one (0) computes" in found.remark
    elif found.difference is None:
        assert implementation == "sdpa"
        assert architecture.model_type in WITHOUT_SDPA
        pytest.skip(found.remark)
    else:
        assert found.difference <= TOLERANCE
        assert found.reuse.difference <= REUSE_TOLERANCE
        # The layer below the edited one at least, be it one of four.
        assert found.reuse.left_out >= 0.25


def test_which_layers_run_in_full():
    """Of all architectures, on transformers 5; release 4.51 had more ways to keep keys."""
    if Version(transformers.__version__) < Version("5"):
        pytest.skip("a list for transformers 5")
    remarks = {
        found.architecture.name: found.reuse.remark
        for found in (check(tried, "eager") for tried in ARCHITECTURES)
        if found.reuse is not None and found.reuse.remark
    }
    recurrent = "runs in full: it has no attention, and may run over all its tokens"
    behind = "runs in full: it may take what padding has seen, through a recurrent layer"
    assert remarks == {
        "gpt_neo (local windows)": (
            "layer 3 runs in full: it does not give the same on a part of its tokens"
        ),
        "mpt (ALiBi)": (
            "layer 2 runs in full: it asks its cache for more than keys (get_seq_length)"
        ),
        # With padding on the left.
        "qwen3_next (hybrid)": (f"layer 2 {recurrent}; layer 3 {behind}"),
        "recurrent_gemma (hybrid, keys in a buffer)": (f"layer 2 {behind}; layer 3 {recurrent}"),
    }


def architecture(name):
    return next(found for found in ARCHITECTURES if found.name == name)


def tracer_on(model, layers="model.layers.{}", edited=0):
    return tracer_for(Watch(model, layers, edited), sadr_plugin.plugin_manager().hook)


def test_the_layers_of_a_hybrid_that_have_attention_are_watched():
    if not exists("qwen3_next"):
        pytest.skip("this transformers has no qwen3_next")
    with tracer_on(build(architecture("qwen3_next (hybrid)"), "eager")) as tracer:
        assert tracer.layers == (1, 3)


def test_a_hook_can_point_at_attention_that_cannot_be_told():
    """A model whose attention calls nothing known, until a hook names the module."""
    model = build(architecture("llama"), "eager")

    class OddAttention(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.softened = inner

    for layer in model.model.layers:
        inner = layer.self_attn
        layer.self_attn = OddAttention(inner)
        layer.self_attn.twin = inner.__class__(model.config, inner.layer_idx)
    with pytest.raises(UnsupportedModelError, match="cannot tell where its layer 1"):
        tracer_on(model)

    class Pointing:
        @sadr_plugin.hookimpl
        def sadr_attention_module(self, layer):
            return layer.self_attn.softened

    with registered(Pointing()), tracer_on(model) as tracer:
        assert tracer.layers == (1, 2)


def test_attention_that_layers_share_is_refused():
    model = build(architecture("llama"), "eager")
    model.model.layers[1].self_attn = model.model.layers[0].self_attn
    with pytest.raises(UnsupportedModelError, match="layer 1 shares its LlamaAttention"):
        tracer_on(model)


def scaled_dot_product_attention(query, key, value, hidden):
    return query


class LikeCtrl(torch.nn.Module):
    """Calls another function by the name of torch's kernel."""

    def forward(self, query, key, value):
        return scaled_dot_product_attention(query, key, value, None)


class ByName(torch.nn.Module):
    def forward(self, query, key, value):
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)


def test_only_torchs_own_kernel_counts():
    assert attention_module(torch.nn.Sequential(LikeCtrl())) is None
    assert isinstance(attention_module(torch.nn.Sequential(ByName())), ByName)


@pytest.mark.parametrize("name", ["gpt2", "falcon"])
def test_a_model_with_several_ways_offloaded(name):
    found = architecture(name)
    model = accelerate.cpu_offload(build(found, "eager"), execution_device=torch.device("cpu"))
    state = torch.get_rng_state()
    with tracer_on(model.train(), found.layers) as tracer:
        assert len(tracer.layers) == 2
    assert torch.equal(torch.get_rng_state(), state), "dropout of the trial is not the user's"


def test_a_trial_that_fails_is_the_plugins_error():
    model = build(architecture("gpt2"), "eager")

    def stop(*_):
        raise RuntimeError("one token is too few")

    model.register_forward_pre_hook(stop)
    with (
        pytest.raises(UnsupportedModelError, match="one token is too few"),
        tracer_on(model, "transformer.h.{}"),
    ):
        pass


@pytest.mark.parametrize("factor", [float("nan"), 1.1])
def test_the_table_does_not_pass_what_differs(factor, monkeypatch):

    original = AttentionCall.probabilities
    monkeypatch.setattr(
        AttentionCall, "probabilities", lambda self, *given: original(self, *given) * factor
    )
    monkeypatch.setattr(_models, "ARCHITECTURES", [architecture("llama")])
    assert CliRunner().invoke(command_line(), ["models"]).exit_code == 1


def test_the_command_prints_the_table(monkeypatch, tmp_path):
    monkeypatch.setattr(_models, "ARCHITECTURES", [architecture("llama"), ARCHITECTURES[-1]])
    data = tmp_path / "models.json"
    shown = CliRunner().invoke(command_line(), ["models", "--markdown", "--json", str(data)])
    assert shown.exit_code == 0
    llama, refused = json.loads(data.read_text())
    assert llama["sound"]
    assert 0 <= llama["trials"]["eager"]["difference"] <= _check.TOLERANCE
    assert refused["trials"]["sdpa"]["difference"] is None
    assert "| llama |" in shown.stdout
    assert "refused: MambaForCausalLM" in shown.stdout
    for tolerance in ("TOLERANCE", "REUSE_TOLERANCE"):
        with monkeypatch.context() as strict:
            strict.setattr(_check, tolerance, 0)
            assert CliRunner().invoke(command_line(), ["models"]).exit_code == 1


def test_a_model_without_weights_is_looked_at_and_not_run():
    """As `sadr doctor` has it: nothing can be run on meta."""
    found = architecture("falcon")
    config = AutoConfig.for_model(found.model_type, **found.settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with tracer_on(model, found.layers) as tracer:
        assert len(tracer.layers) == 2
