import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaAttention

import sadr_plugin
from sadr_plugin.attention._layers import Watch
from sadr_plugin.attention._modules import attention_module
from sadr_plugin.attention._tracer import AttentionTracer, tracer_for
from sadr_plugin.errors import UnsupportedModelError
from support import attributes

IDS = torch.tensor([[1, 2, 3, 4]])


def watched(model):
    return {index: attention_module(layer) for index, layer in enumerate(model.model.layers)}


def test_nothing_is_left_on_the_model(tiny_llama):
    before = attributes(tiny_llama)
    expected = tiny_llama(IDS).logits
    with AttentionTracer(watched(tiny_llama)) as tracer:
        output, calls = tracer.run(lambda: tiny_llama(IDS))
        assert len(calls) == 4
        assert torch.equal(output.logits, expected)
    assert attributes(tiny_llama) == before
    assert torch.equal(copy.deepcopy(tiny_llama)(IDS).logits, expected)
    assert torch.equal(pickle.loads(pickle.dumps(tiny_llama))(IDS).logits, expected)


class Interrupt(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError("own"), KeyboardInterrupt(), Interrupt()])
def test_an_exception_inside_a_forward_passes_through(tiny_llama, error):
    before = attributes(tiny_llama)

    def stop(*_):
        raise error

    with AttentionTracer(watched(tiny_llama)) as tracer:
        hook = tiny_llama.model.layers[2].mlp.register_forward_hook(stop)
        with pytest.raises(type(error)) as caught:
            tracer.run(lambda: tiny_llama(IDS))
        assert caught.value is error
        hook.remove()
        _, calls = tracer.run(lambda: tiny_llama(IDS))
        assert len(calls) == 4
    assert attributes(tiny_llama) == before


def test_a_users_own_nnsight_wrapper_goes_on_working(tiny_llama):
    import nnsight

    theirs = nnsight.NNsight(tiny_llama)
    before = attributes(tiny_llama)
    with AttentionTracer(watched(tiny_llama)) as tracer:
        _, calls = tracer.run(lambda: tiny_llama(IDS))
    assert len(calls) == 4
    assert attributes(tiny_llama) == before
    with theirs.trace(input_ids=IDS):
        hidden = nnsight.save(theirs.model.layers[1].output)
    assert hidden is not None


def test_a_module_without_the_call_is_refused_and_left_alone(tiny_llama):
    before = attributes(tiny_llama)
    wrong = {0: tiny_llama.model.layers[0].self_attn, 1: tiny_llama.model.layers[1].mlp}
    with pytest.raises(UnsupportedModelError, match=r"LlamaMLP \(layer 1\)"):
        AttentionTracer(wrong).__enter__()
    assert attributes(tiny_llama) == before


class Silent(LlamaAttention):
    """Attention that does not make the call that its source shows."""

    def forward(self, hidden_states, **kwargs):
        if hidden_states is None:
            return attention_interface(self)  # noqa: F821
        return hidden_states, None


@pytest.mark.parametrize(
    ("in_force", "has_sdpa", "suggested"),
    [
        ("eager", False, None),
        ("eager", True, "sdpa"),
        ("sdpa", True, "eager"),
        ("flash_attention_2", False, "eager"),
    ],
)
def test_only_an_implementation_that_may_help_is_suggested(
    tiny_llama, in_force, has_sdpa, suggested
):
    tiny_llama.config._attn_implementation = in_force
    tiny_llama._supports_sdpa = has_sdpa
    tiny_llama.model.layers[2].self_attn.__class__ = Silent
    watch = Watch(tiny_llama, "model.layers.{}", 1)
    with (
        tracer_for(watch, sadr_plugin.plugin_manager().hook) as tracer,
        pytest.raises(UnsupportedModelError, match="did not make the attention call") as found,
    ):
        tracer.run(lambda: tiny_llama.model.layers[2].self_attn(torch.ones(1)))
    message = str(found.value)
    assert "leave such layers out with sadr.layers" in message
    assert ("attn_implementation" in message) == (suggested is not None)
    if suggested is not None:
        expected = f"it attends by {in_force!r}; load it with attn_implementation={suggested!r}, or"
        assert expected in message


def test_a_layer_without_one_attention_module_is_not_recognised():
    assert attention_module(nn.Sequential(nn.Linear(2, 2))) is None


NNSIGHT_ORDER = """
import sys
sys.path[:0] = {path!r}
{first}
from sadr_plugin.attention._nnsight import import_nnsight
nnsight = import_nnsight()
print(hasattr(object, "save"), nnsight.__name__)
"""


@pytest.mark.parametrize(
    ("first", "mounted"), [("", "False"), ("import nnsight", "True")], ids=["ours", "theirs"]
)
def test_the_mount_on_object_is_taken_off_unless_it_is_the_users(first, mounted):
    script = NNSIGHT_ORDER.format(path=sys.path, first=first)
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == [mounted, "nnsight"]


def compiled_forward(model):
    model.forward = torch.compile(model.forward)


def compiled_layer(model):
    model.model.layers[3].mlp.forward = torch.compile(model.model.layers[3].mlp.forward)


@pytest.mark.parametrize("compile_it", [compiled_forward, compiled_layer])
def test_a_compiled_forward_is_refused(tiny_llama, compile_it):
    compile_it(tiny_llama)
    watch = Watch(tiny_llama, "model.layers.{}", 1)
    with pytest.raises(UnsupportedModelError, match=r"was compiled by torch\.compile"):
        tracer_for(watch, sadr_plugin.plugin_manager().hook)


def test_a_forward_that_is_kept_from_compiling_is_not(tiny_llama):
    tiny_llama.forward = torch.compiler.disable(tiny_llama.forward)
    watch = Watch(tiny_llama, "model.layers.{}", 1)
    with tracer_for(watch, sadr_plugin.plugin_manager().hook) as tracer:
        assert tracer.layers == (2, 3)
