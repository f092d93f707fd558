"""Forwards run in part: the same numbers, whatever the batch; and in full wherever they would
not be, with the reason."""

import gc
import inspect
import logging
import sys
import threading
import weakref

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

import sadr_plugin
from sadr_plugin import hookimpl
from sadr_plugin.attention._layers import Watch
from sadr_plugin.attention._rows import rows_of
from sadr_plugin.attention._tracer import tracer_for
from sadr_plugin.errors import PositionError
from sadr_plugin.models._architectures import ARCHITECTURES, build
from sadr_plugin.models._reuse_check import try_reuse
from sadr_plugin.reuse._arguments import Arguments
from sadr_plugin.reuse._conditions import caches_may_skip_layers
from sadr_plugin.reuse._layer import WindowedLayer
from sadr_plugin.reuse._reuse import reuse_for
from sadr_plugin.reuse._window import Window
from sadr_plugin.testing import registered
from smalledit.hparams import SmallHparams
from support import attributes, exists, tiny_llama

EDITED = 1


def hooks():
    return sadr_plugin.plugin_manager().hook


class Trial:
    """A loop of a few steps on a tiny Llama, with reuse or without.

    Args:
        subject: the token that gains the vector, in each row.
        read: the token at which each row's logits are read.
        watched: the token at which each row's attention is; the same if it is None.
        at: gives the tokens that gain it, by step, where they change.
        before: called with this before each step.
    """

    def __init__(
        self, model, inputs, subject, read, at=None, before=None, steps=4, start=0.0, watched=None
    ):
        self.model, self.inputs, self.read, self.steps = model, inputs, read, steps
        self.subject, self.at, self.before = subject, at or (lambda _: subject), before
        self.watched = read if watched is None else watched
        self.vector = torch.full((32,), start, dtype=model.dtype, requires_grad=True)
        self.reusing = None
        self.losses, self.outputs, self.strayed = [], [], []

    def run(self, reuse):
        model, watch = self.model, Watch(self.model, "model.layers.{}", EDITED)
        self.reusing = reuse_for(watch, hooks())
        step = 0

        def add(module, args, output):
            output = output[0] if isinstance(output, tuple) else output
            output[torch.arange(len(output)), self.at(step)] += self.vector

        try:
            with tracer_for(watch, hooks()) as tracer:
                hook = model.model.layers[EDITED].register_forward_hook(add)
                if reuse:
                    self.reusing.fill()
                for step in range(self.steps):  # noqa: B007
                    if self.before is not None:
                        self.before(self)
                    self._step(tracer, reuse)
        finally:
            self.left_out, self.remark = self.reusing.left_out(), self.reusing.remark()
            self.reusing.restore()
            hook.remove()
        return self.vector.detach()

    def _step(self, tracer, reuse):
        inputs = dict(self.inputs)

        def forward():
            return tracer.run(lambda: self.reusing.within(lambda: self.model(**inputs)))

        output, seen = self.reusing.run(forward, inputs, self.watched) if reuse else forward()
        if self.reusing.strayed is not None:
            self.strayed.append(bool(self.reusing.strayed))
        rows = rows_of(seen, self.watched, self.reusing.start(self.read.device))
        logits = output.logits[torch.arange(len(self.read)), self.read]
        loss = sum(row.square().sum() for row in rows) - logits.log_softmax(-1)[:, 3].mean()
        (gradient,) = torch.autograd.grad(loss, self.vector)
        with torch.no_grad():
            self.vector -= 0.3 * gradient / gradient.norm()
        self.losses.append(loss.item())
        self.outputs.append(output)


def model_(**changes):
    model = tiny_llama().requires_grad_(False)
    for name, value in changes.items():
        setattr(model.config, name, value)
    return model


def batch(*lengths, side="right", tokens=None):
    tokens = tokens or max(lengths)
    ids = torch.randint(2, 18, (len(lengths), tokens), generator=torch.Generator().manual_seed(7))
    mask = torch.zeros(len(lengths), tokens, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, tokens - length :] = 1
    mask = mask if side == "left" else mask.flip(-1)
    return {"input_ids": ids, "attention_mask": mask}


INPUTS = batch(9, 6, 8)
SUBJECT, READ = torch.tensor([5, 3, 4]), torch.tensor([8, 5, 7])


def trial(model=None, inputs=None, **options):
    return Trial(model or model_(), inputs or INPUTS, SUBJECT, READ, **options)


def same(found, expected, tolerance=5e-6):
    assert ((found - expected).norm() / expected.norm()).item() <= tolerance


# The same numbers.


def test_the_loop_is_the_same():
    full, part = trial(), trial()
    same(part.run(True), full.run(False))
    # One layer of four below the edited one; of the two above, five of nine tokens.
    assert part.left_out == pytest.approx((1 + 2 * 5 / 9) / 4)
    assert (part.remark, full.left_out) == ("", 0)
    assert part.losses == pytest.approx(full.losses, rel=1e-6)


def test_in_float64_nothing_differs_that_float32_could_hold():
    found = [trial(model_().double()).run(reuse) for reuse in (False, True)]
    same(found[1], found[0], 1e-13)


def test_without_a_cache_of_the_models():
    inputs = {**INPUTS, "use_cache": False}
    found = [trial(inputs=inputs) for _ in range(2)]
    same(found[1].run(True), found[0].run(False))
    assert found[1].left_out > 0.5


def test_a_row_that_is_watched_before_the_vector():
    """Its attention cannot change, and is read all the same."""
    read = torch.tensor([2, 5, 7])
    found = [Trial(model_(), INPUTS, SUBJECT, read) for _ in range(2)]
    same(found[1].run(True), found[0].run(False))
    assert found[1].left_out == pytest.approx((1 + 2 * 2 / 9) / 4)


@st.composite
def layouts(draw):
    tokens = draw(st.integers(2, 9))
    lengths = draw(st.lists(st.integers(1, tokens), min_size=1, max_size=4))
    side = draw(st.sampled_from(["left", "right"]))
    real = [
        range(tokens - length, tokens) if side == "left" else range(length) for length in lengths
    ]
    subject = [draw(st.sampled_from(row)) for row in real]
    read = [draw(st.sampled_from(range(s, row[-1] + 1))) for s, row in zip(subject, real)]  # noqa: B905
    mask = draw(st.booleans())
    return batch(*lengths, side=side, tokens=tokens), subject, read, mask


@given(layouts())
@settings(max_examples=60, deadline=None)
def test_any_batch(layout):
    inputs, subject, read, with_mask = layout
    if not with_mask:
        inputs = {"input_ids": inputs["input_ids"]}
    found = [
        Trial(model_(), inputs, torch.tensor(subject), torch.tensor(read)).run(reuse)
        for reuse in (False, True)
    ]
    same(found[1], found[0], 2e-6)


@pytest.mark.parametrize("name", ["llama", "gemma3 (mixed windows)", "gptj", "falcon", "mixtral"])
def test_in_bfloat16(name):
    architecture = next(found for found in ARCHITECTURES if found.name == name)
    if not exists(architecture.model_type):
        pytest.skip(f"this transformers has no {architecture.model_type}")
    found = try_reuse(architecture, "eager", "right", torch.bfloat16)
    assert found.difference <= 0.02  # five bits of its eight
    assert found.left_out > 0.33


def test_padding_that_the_loss_reads():
    """Row 1 ends at its sixth token, and the loss looks at its ninth."""
    subject, read, watched = (torch.tensor(t) for t in ([7, 4, 6], [8, 8, 7], [8, 5, 7]))
    found = [
        Trial(model_(), INPUTS, subject, read, watched=watched).run(reuse)
        for reuse in (False, True)
    ]
    same(found[1], found[0])


def test_a_vector_that_starts_elsewhere_than_at_zero():
    found = [trial(start=0.5).run(reuse) for reuse in (False, True)]
    same(found[1], found[0])


def test_a_vector_that_some_rows_gain_late():
    """In the second step two rows are as they were; the third shows where theirs is."""

    def at(step):
        return torch.tensor([5, 3, 4])

    def before(found):
        if len(found.losses) < 2:
            found.vector.data.zero_()

    found = [trial(at=at, before=before, steps=5) for _ in range(2)]
    same(found[1].run(True), found[0].run(False))
    assert found[1].left_out > 0.25


def test_hooks_see_whole_rows_at_their_places():
    seen = {}

    def watched(reuse):
        model = model_()
        parts = {
            "layer below the top": model.model.layers[2],
            "top layer": model.model.layers[3],
            "norm": model.model.norm,
            "head": model.lm_head,
        }
        for name, part in parts.items():

            def keep(module, args, output, name=name):
                output = output[0] if isinstance(output, tuple) else output
                seen.setdefault((name, reuse), []).append(output.detach().clone())

            part.register_forward_hook(keep)
        found = trial(model)
        found.run(reuse)
        return found

    part = watched(True)
    watched(False)
    assert part.left_out > 0.5
    real = INPUTS["attention_mask"].bool()
    for (name, reuse), tensors in seen.items():
        if reuse:
            for one, other in zip(tensors[-4:], seen[name, False][-4:], strict=True):
                assert one.shape == other.shape
                torch.testing.assert_close(one[real], other[real], rtol=1e-4, atol=1e-5)


def test_a_cache_that_lacks_layers_is_not_handed_out():
    found = trial()
    found.run(True)
    first, *others = found.outputs
    assert first.past_key_values is not None
    assert all(output.past_key_values is None for output in others)
    assert all(output.keys() == {"logits"} for output in others)


def test_other_forwards_are_untouched(small, small_adapter, word_tokenizer, request_, monkeypatch):
    """Of the small toolkit's forwards, those without gradients run every layer."""
    counted = []
    model = tiny_llama()
    mlp = type(model.model.layers[0].mlp)
    forward = mlp.forward

    def counting(self, hidden):
        counted.append((torch.is_grad_enabled(), tuple(hidden.shape[:2])))
        return forward(self, hidden)

    monkeypatch.setattr(mlp, "forward", counting)
    sadr_plugin.enable()
    small.optimise(model, word_tokenizer, request_, SmallHparams(sadr={"gamma": 1.0}))
    steps = len(small_adapter.reports[0].steps)
    others = [shape for gradients, shape in counted if not gradients and shape[0] == 1]
    assert len(others) >= 4 * steps
    # The loop's own: four layers at first; then the edited one in full, and two on a window.
    whole = [shape for gradients, shape in counted if gradients]
    assert len(whole) == 4 + 3 * (steps - 1)
    assert small_adapter.reports[0].reused > 0.4


# In full, and why.


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
    found.inputs = {**found.inputs, "past_key_values": object()} if found.losses else found.inputs


def weights_asked_for(found):
    if found.losses:
        found.inputs = {**found.inputs, "output_attentions": True}


def changed_in_place(found):
    if len(found.losses) == 2:
        kept = found.reusing._below_gave
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


def test_a_first_forward_that_is_broken_off():
    """The next one is the first."""
    found = trial()
    reusing = reuse_for(Watch(found.model, "model.layers.{}", EDITED), hooks())
    reusing.fill()
    with pytest.raises(ZeroDivisionError):
        reusing.run(lambda: 1 / 0, INPUTS)
    with torch.no_grad():
        for _ in range(2):
            reusing.run(lambda: reusing.within(lambda: found.model(**INPUTS)), INPUTS)
    assert reusing.left_out() == 0.25
    reusing.restore()


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


# What a step asks of the device, and what is left behind.


def test_a_step_asks_the_device_once(small, small_adapter, word_tokenizer, request_, monkeypatch):
    """What the plugin's own code asks, from the third step on; the model's asks as it likes."""
    asked = []

    def count(owner, name):
        original = getattr(owner, name)

        def counting(*args, **kwargs):
            if "/sadr_plugin/" in sys._getframe(1).f_code.co_filename:
                asked.append((len(small_adapter.steps), name))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    for name in ("tolist", "item", "cpu", "nonzero", "__bool__", "__float__", "__int__", "numpy"):
        count(torch.Tensor, name)
    count(torch, "equal")
    count(inspect, "signature")
    sadr_plugin.enable()
    hparams = SmallHparams(sadr={"gamma": 1.0, "stop_at": 1.0})
    small.optimise(tiny_llama(), word_tokenizer, request_, hparams)
    steps = len(small_adapter.steps)
    assert steps > 4
    assert [name for at, name in asked if at == 1].count("tolist") == 2, "the window is found"
    for step in range(2, steps):
        assert [name for at, name in asked if at == step] == ["tolist"]


def test_nothing_is_kept_after_the_session():
    found = trial()
    found.run(True)
    reusing = found.reusing
    assert not reusing._above
    assert reusing._below_gave is None
    model = model_()
    reusing = reuse_for(Watch(model, "model.layers.{}", EDITED), hooks())
    reusing.fill()
    with torch.no_grad():
        reusing.run(lambda: reusing.within(lambda: model(**INPUTS)), INPUTS)
    kept = [weakref.ref(tensor) for layer in reusing._above.values() for tensor in layer.kept()]
    assert len(kept) == 2 * 3 + 1
    reusing.restore()
    gc.collect()
    assert not any(reference() is not None for reference in kept)


@pytest.mark.parametrize("error", [ValueError("injected"), KeyboardInterrupt("injected")])
@pytest.mark.parametrize("nth", [6, 9, 10])
def test_a_fault_within_a_reused_forward(
    error, nth, small, small_adapter, word_tokenizer, request_, monkeypatch
):
    """In the first layer above the edited one, or the second; the next edit is as any."""
    sadr_plugin.enable()
    expected, _ = small.optimise(
        tiny_llama(), word_tokenizer, request_, SmallHparams(sadr={"gamma": 1.0})
    )
    model = tiny_llama()
    before = attributes(model)
    mlp = type(model.model.layers[0].mlp)
    forward, calls = mlp.forward, [0]

    def failing(self, hidden):
        calls[0] += torch.is_grad_enabled()
        if calls[0] == nth and torch.is_grad_enabled():
            raise error
        return forward(self, hidden)

    with monkeypatch.context() as patch:
        patch.setattr(mlp, "forward", failing)
        with pytest.raises(type(error)) as raised:
            small.optimise(model, word_tokenizer, request_, SmallHparams(sadr={"gamma": 1.0}))
    assert raised.value is error
    assert attributes(model) == before
    found, _ = small.optimise(model, word_tokenizer, request_, SmallHparams(sadr={"gamma": 1.0}))
    assert torch.equal(found, expected)


def test_two_models_that_share_layers(small, small_adapter, word_tokenizer, request_):
    """A wrapper and its base are one model: the second edit is refused, the first goes on."""
    base = tiny_llama()

    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base, self.config = base, base.config
            self.model, self.lm_head = base.model, base.lm_head

        def forward(self, input_ids, attention_mask=None):
            return base(input_ids=input_ids, attention_mask=attention_mask)

    refused = []

    class Second:
        @hookimpl
        def sadr_step(self, step):
            if step.index == 1:
                with pytest.raises(sadr_plugin.errors.BusyModelError) as error:
                    small.optimise(
                        Wrapper(), word_tokenizer, request_, SmallHparams(sadr={"gamma": 1.0})
                    )
                refused.append(error)

    sadr_plugin.enable()
    with registered(Second()):
        small.optimise(base, word_tokenizer, request_, SmallHparams(sadr={"gamma": 1.0}))
    assert len(refused) == 1
    assert len(small_adapter.reports) == 1


# The window.


def test_a_window():
    window = Window.around([(1, 3), (4, 6), (5, 6)], tokens=6)
    assert window.size == 2
    assert window.inside(torch.device("cpu")).tolist() == [[1, 2], [4, 5], [4, 5]]
    assert window.outside(torch.device("cpu"))[0].tolist() == [True, False, False, True, True, True]
    whole = torch.arange(18.0).view(3, 6, 1)
    assert window.cut(whole).flatten().tolist() == [1, 2, 10, 11, 16, 17]
    assert window.cut(whole[:1]).flatten().tolist() == [1, 2, 4, 5, 4, 5]
    pasted = window.paste(-window.cut(whole), whole)
    assert pasted[1].flatten().tolist() == [6, 7, 8, 9, -10, -11]
    keys = torch.arange(36.0).view(3, 2, 6, 1)
    part = -torch.ones(3, 2, 2, 1)
    by_head = window.paste(part, keys, by_head=True)
    assert by_head[0, 1].flatten().tolist() == [6, -1, -1, 9, 10, 11]
    assert keys.min() == 0, "what is kept is not written into"


def test_a_windows_masks():
    window = Window([1, 0], 2, 4)
    assert window.causal_mask(torch.zeros(1), additive=False)[0, 0].tolist() == [
        [True, True, False, False],
        [True, True, True, False],
    ]
    additive = window.causal_mask(torch.zeros(1), additive=True)
    assert additive[1, 0, 0].tolist() == [0.0] + 3 * [torch.finfo(torch.float32).min]
    mask = torch.arange(2 * 16).view(2, 1, 4, 4)
    assert window.cut_queries(mask)[1, 0, :, 0].tolist() == [16, 20]
    assert window.cut_queries(mask[:1])[1, 0, :, 0].tolist() == [0, 4]


def test_a_window_is_never_of_one_token():
    assert Window.around([(5, 6)], 6).inside(torch.device("cpu")).tolist() == [[4, 5]]


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
