"""Forwards that are run in full, because reuse would not give the same numbers; with the reason."""

import logging
import threading

import pytest
import torch
import transformers
from packaging.version import Version

import sadr_plugin
from reuse_support import EDITED, INPUTS, READ, SUBJECT, Trial, hooks, model_, same, trial
from sadr_plugin import Prompt, hookimpl
from sadr_plugin.attention._layers import Watch
from sadr_plugin.errors import PositionError
from sadr_plugin.models._architectures import ARCHITECTURES, build
from sadr_plugin.reuse._arguments import Arguments
from sadr_plugin.reuse._conditions import caches_may_skip_layers
from sadr_plugin.reuse._layer import WindowedLayer
from sadr_plugin.reuse._reuse import reuse_for
from sadr_plugin.testing import registered
from smalledit.hparams import SmallHparams
from support import tiny_llama


def dropout(model):
    model.config.attention_dropout = 0.3
    model.model.layers[2].self_attn.attention_dropout = 0.3
    model.train()


def checkpointing(model):
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.get_input_embeddings()._forward_hooks.clear()  # of transformers 5, which is a reason, too
    model.train()


def shared_layer(model):
    model.model.layers[0] = model.model.layers[2]


def hook_below(model):
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)


def hook_on_embeddings(model):
    model.model.embed_tokens.register_forward_hook(lambda *_: None)


def trained(model):
    model.model.layers[3].mlp.up_proj.weight.requires_grad_(True)


def looks_ahead(model):
    model.model.layers[3].self_attn.is_causal = False


def two_heads(model):
    def look(module, args, output):
        model.lm_head(output)

    model.model.norm.register_forward_hook(look)


def shared_keys(model):
    model.config.num_kv_shared_layers = 1
    model.config.use_cache = False  # transformers 5.5 would make a cache of too few layers


def vector_below(model):
    """By a forward that is replaced, which no hook shows."""
    mlp = model.model.layers[0].mlp
    forward, extra = mlp.forward, torch.zeros(32, requires_grad=True)
    mlp.forward = lambda hidden: forward(hidden) + extra


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (vector_below, "reaches a layer below the edited one"),
        (dropout, "it draws random numbers, as dropout does"),
        (checkpointing, "recomputes its forward"),
        (shared_layer, "stands in several places"),
        (hook_below, "a hook is on or in a LlamaDecoderLayer below"),
        (hook_on_embeddings, "a hook is on or in a Embedding below"),
        (trained, "its parameters require gradients"),
        (looks_ahead, "attend to later ones"),
        (shared_keys, "take the keys of others"),
        (two_heads, "its output head runs more than once"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_model_that_is_run_in_full(change, reason, caplog):
    model = model_()
    change(model)
    caplog.set_level(logging.INFO, "sadr_plugin")
    found = trial(model)
    if change is shared_layer:  # the tracer refuses it, too
        reusing = reuse_for(Watch(model, "model.layers.{}", EDITED), hooks())
        reusing.fill()
        found.remark, found.left_out = reusing.remark(), reusing.left_out()
    else:
        found.run(True)
    assert found.left_out == 0
    assert reason in found.remark
    lines = [record.message for record in caplog.records if "runs in full" in record.message]
    assert len(lines) == 1
    assert reason in lines[0]


def test_a_transformers_whose_cache_takes_no_layer_after_a_gap(monkeypatch):
    """As until 4.45."""

    class Cache(transformers.DynamicCache):
        def update(self, keys, values, layer_idx, *args, **kwargs):
            return [(keys, values)][layer_idx]

    assert caches_may_skip_layers(), "this release is newer"
    monkeypatch.setattr("transformers.cache_utils.DynamicCache", Cache)
    caches_may_skip_layers.cache_clear()
    try:
        found = trial()
        found.run(True)
    finally:
        caches_may_skip_layers.cache_clear()
    assert (found.left_out, found.remark[-18:]) == (0, "take 4.46 or later")


def new_input(found):
    found.inputs = {
        **found.inputs,
        "input_ids": found.inputs["input_ids"].roll(len(found.losses), 0),
    }


def written_into(found):
    if len(found.losses) == 2:
        found.inputs["attention_mask"][1, 5] = 0


def another_argument(found):
    if found.losses:
        found.inputs = {**found.inputs, "use_cache": False}


def given_keys(found):
    found.inputs = {**found.inputs, "past_key_values": transformers.DynamicCache()}


def weights_asked_for(found):
    if found.losses:
        found.inputs = {**found.inputs, "output_attentions": True}


def changed_in_place(found):
    if len(found.losses) == 2:
        kept = found.reusing._below_gave[0]
        (kept[0] if isinstance(kept, tuple) else kept).add_(0)


def weights_changed(found):
    if len(found.losses) == 2:
        found.model.model.layers[0].mlp.down_proj.weight.mul_(1.5)


def hooked_later(found):
    if len(found.losses) == 2:
        found.model.model.layers[0].register_forward_pre_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (new_input, "its input changes"),
        (written_into, "its input changes"),
        (another_argument, "its input changes"),
        (given_keys, "it is given keys and values of earlier tokens"),
        (weights_asked_for, "asked for more than its logits (output_attentions)"),
        (changed_in_place, "changed in place"),
        (weights_changed, "its weights change from step to step"),
        (hooked_later, "a hook is on or in"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_loop_that_goes_on_in_full(change, reason):
    def inputs():
        return {name: value.clone() for name, value in INPUTS.items()}

    if change is weights_asked_for and Version(transformers.__version__) < Version("4.48"):
        pytest.skip("until 4.47, a model keeps the attention with which it was built")
    models = [model_(), model_()]
    for model in models:
        model.config._attn_implementation = "eager"
    full = trial(models[0], inputs(), before=None if change is changed_in_place else change)
    part = trial(models[1], inputs(), before=change)
    expected = full.run(False)
    same(part.run(True), expected)
    assert reason in part.remark


def test_an_equal_input_is_the_same_input():
    def copied(found):
        found.inputs = {name: value.clone() for name, value in found.inputs.items()}

    found = trial(before=copied)
    found.run(True)
    assert found.left_out > 0.5


def test_a_hook_inside_a_layer_above_sees_all_of_it():
    model, shapes = model_(), []
    model.model.layers[2].mlp.register_forward_hook(
        lambda m, a, output: shapes.append(output.shape)
    )
    found = trial(model)
    same(found.run(True), trial().run(False))
    assert set(shapes[1:]) == {(3, 9, 32)}
    assert found.left_out > 0.25


def test_hooks_that_transformers_leaves_do_not_count():
    model = model_()
    model.config._attn_implementation = "eager"
    model(**INPUTS, output_attentions=True)
    found = trial(model)
    found.run(True)
    assert (found.remark, found.left_out > 0.5) == ("", True)


def test_a_hook_on_every_module():
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        found = trial()
        found.run(True)
    finally:
        handle.remove()
    assert "on every module" in found.remark


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_that_does_not_give_the_same_in_part(dtype):
    """One that looks at how many tokens it is given."""
    model = model_().to(dtype)
    mlp = model.model.layers[3].mlp
    forward = mlp.forward
    mlp.forward = lambda hidden: forward(hidden) * (1 + hidden.shape[1] / 50)
    found = trial(model)
    expected = trial(model).run(False)
    same(found.run(True), expected, 1e-5 if dtype == torch.float32 else 0.02)
    assert found.remark == "layer 3 runs in full: it does not give the same on a part of its tokens"
    assert found.left_out > 0.25


@pytest.mark.parametrize("more", [False, True])
def test_a_hook_on_a_layer_that_gives_more_than_hidden_states(more):
    """It would see a part of the attention weights."""
    windowed = WindowedLayer(model_().lm_head, None, is_head=True)
    windowed._output, windowed._gives_more = torch.zeros(3, 9, 32), more
    windowed.module.register_forward_hook(lambda *_: None)
    windowed.refuse_if_unfit(3, 9)
    assert windowed.refusal == ("is watched by a hook" if more else None)


def test_a_mask_that_shows_later_tokens():
    real = INPUTS["attention_mask"].bool()
    windowed = WindowedLayer(model_().lm_head, None, is_head=True)
    windowed._arguments = Arguments((), {"attention_mask": torch.zeros(3, 1, 9, 9)}, ())
    assert windowed.looks_ahead(real)
    causal = torch.full((3, 1, 9, 9), torch.finfo(torch.float32).min).triu(1)
    windowed._arguments = Arguments((), {"attention_mask": causal}, ())
    assert not windowed.looks_ahead(real)
    causal[1, 0, 7, 8] = 0  # of padding alone
    windowed._arguments = Arguments((), {"attention_mask": causal}, ())
    assert not windowed.looks_ahead(real)
    windowed._arguments = Arguments((), {"attention_mask": causal > -1}, ())
    assert not windowed.looks_ahead(real)
    causal[0, 0, 2, 3] = 0  # a token sees the next one alone
    windowed._arguments = Arguments((), {"attention_mask": causal}, ())
    assert windowed.looks_ahead(real)


def test_a_batch_whose_mask_shows_later_tokens():
    inputs = {**INPUTS, "attention_mask": torch.ones(3, 1, 9, 9, dtype=torch.bool)}
    found = Trial(model_(), inputs, SUBJECT, READ)
    expected = Trial(model_(), inputs, SUBJECT, READ).run(False)
    assert torch.equal(found.run(True), expected)
    assert found.remark == "its tokens attend to later ones"


def test_a_forward_in_another_thread_is_run_in_full():
    """A hook of the loop's forward may wait for one."""
    other = {"input_ids": INPUTS["input_ids"].flip(0)}

    def logits_aside(reuse):
        model, found, main = model_(), [], threading.get_ident()

        def aside(*_):
            if threading.get_ident() == main:
                thread = threading.Thread(target=lambda: found.append(model(**other).logits))
                thread.start()
                thread.join()

        model.model.norm.register_forward_hook(aside)
        loop = trial(model)
        loop.run(reuse)
        assert loop.left_out > 0.4 or not reuse
        return torch.stack(found)

    assert torch.allclose(logits_aside(True), logits_aside(False), atol=1e-4)


class Recurrent(torch.nn.Module):
    """A part that keeps a state of its own in the cache."""

    def forward(self, hidden, cache_params=None):
        return hidden


def test_a_layer_with_a_part_that_keeps_another_state():
    layer = model_().model.layers[2]
    assert WindowedLayer(layer, layer.self_attn).refusal is None
    layer.mixer = Recurrent()
    refusal = WindowedLayer(layer, layer.self_attn).refusal
    assert refusal == "has a part beside its attention that keeps a state"


def test_a_layer_that_cannot_run_in_part():
    model = model_()
    mlp = model.model.layers[3].mlp
    forward = mlp.forward
    mlp.forward = lambda hidden: forward(hidden) * torch.arange(1.0, 10).view(1, 9, 1)
    found = trial(model)
    expected = trial(model).run(False)
    same(found.run(True), expected)
    assert found.remark.startswith(
        "layer 3 runs in full: it cannot run on a part of its tokens (RuntimeError: "
    )


def test_a_vector_that_moves_is_noticed():
    found = trial(at=lambda step: SUBJECT if step < 3 else torch.tensor([2, 3, 4]))
    found.run(True)
    assert found.strayed == [False, True]


def test_a_vector_that_moves_ends_the_edit(small, small_adapter, word_tokenizer, request_):
    class Moved:
        @hookimpl
        def sadr_step(self, step):
            if step.index == 2:
                batch["row"] = 0

    batch = {"row": None}
    model = tiny_llama()
    mlp = model.model.layers[EDITED].mlp
    forward = mlp.forward

    def moved(hidden):
        output = forward(hidden)
        if batch["row"] is not None and torch.is_grad_enabled():
            output = output.clone()
            output[batch["row"], 0] += 9
        return output

    mlp.forward = moved
    sadr_plugin.enable()
    hparams = SmallHparams(sadr={"gamma": 1.0})
    message = r"at other tokens than before; set sadr\.reuse"
    with registered(Moved()), pytest.raises(PositionError, match=message):
        small.optimise(model, word_tokenizer, request_, hparams)


def test_reuse_false_runs_every_forward(small, small_adapter, word_tokenizer, request_, caplog):
    caplog.set_level(logging.INFO, "sadr_plugin")
    sadr_plugin.enable()
    hparams = SmallHparams(sadr={"gamma": 1.0, "reuse": False})
    small.optimise(tiny_llama(), word_tokenizer, request_, hparams)
    assert small_adapter.reports[0].reused == 0
    assert not any("in full" in record.message for record in caplog.records)


def show_all(module, args, kwargs):
    rows, tokens, _ = kwargs["hidden_states"].shape
    return args, {**kwargs, "attention_mask": torch.zeros(rows, 1, tokens, tokens)}


def test_rows_that_reach_later_tokens_end_reuse(
    small, small_adapter, word_tokenizer, request_, caplog
):
    """The mask is replaced inside a layer, where only the rows show it."""
    caplog.set_level(logging.INFO, "sadr_plugin")
    model = tiny_llama()
    model.model.layers[3].self_attn.register_forward_pre_hook(show_all, with_kwargs=True)
    sadr_plugin.enable()
    small.optimise(model, word_tokenizer, request_, SmallHparams(sadr=True))
    assert small_adapter.reports[0].reused == 0
    assert any("its tokens attend to later ones" in record.message for record in caplog.records)


class Replaying:
    """A loss term of weight 0 that runs another prompt with the vector."""

    weight, name = 0.0, "replaying"

    def __init__(self):
        self.found = []

    @hookimpl
    def sadr_loss_terms(self, running):
        self.running, self.replay = running, None
        return [self]

    def value(self):
        if self.replay is None:
            self.replay = self.running.replay([Prompt("so the ", "tower", " is in a city of")])
        self.found.append(self.replay.now().detach())
        return torch.zeros(())


def test_a_terms_prompts_run_in_full_as_soon_as_the_loop_does(
    small, small_adapter, word_tokenizer, request_
):
    """A layer that attends to later tokens is seen after the term has run once, and the layers
    above it would go on with what a part of its tokens gave."""
    found = []
    for reuse in (True, False):
        model = tiny_llama(layers=6)
        model.model.layers[3].self_attn.register_forward_pre_hook(show_all, with_kwargs=True)
        sadr_plugin.enable()
        hparams = SmallHparams(sadr={"gamma": 0, "reuse": reuse})
        with registered(Replaying()) as term:
            small.optimise(model, word_tokenizer, request_, hparams)
        found.append(torch.stack(term.found))
    assert torch.equal(*found)
    assert not torch.equal(found[0][0], found[0][-1]), "the vector acts on the prompt"


def test_flex_attention_runs_above_in_full(monkeypatch):
    model = build(next(a for a in ARCHITECTURES if a.name == "llama"), "eager")
    model.config._attn_implementation = "flex_attention"
    reusing = reuse_for(Watch(model, "model.layers.{}", EDITED), hooks())
    reusing.fill()
    assert (
        reusing.remark()
        == "layer 2 runs in full: it attends by flex_attention, whose mask cannot be cut"
    )
    reusing.restore()
