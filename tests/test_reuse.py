"""Forwards run in part: the same numbers, whatever the batch, and nothing left behind."""

import gc
import inspect
import sys
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import sadr_plugin
from reuse_support import EDITED, INPUTS, READ, SUBJECT, Trial, batch, hooks, model_, same, trial
from sadr_plugin import hookimpl
from sadr_plugin.attention._layers import Watch
from sadr_plugin.models._architectures import ARCHITECTURES
from sadr_plugin.models._reuse_check import try_reuse
from sadr_plugin.reuse._inputs import Inputs
from sadr_plugin.reuse._reuse import reuse_for
from sadr_plugin.reuse._window import Window
from sadr_plugin.reuse._window_search import WindowSearch
from sadr_plugin.testing import registered
from smalledit.hparams import SmallHparams
from support import attributes, exists, tiny_llama

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
    assert not reusing._below_gave
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


def test_a_number_that_stays_nan_has_not_changed():
    """The window is around the token that changes, not around one that is NaN in every forward."""
    search = WindowSearch()
    search.begin_forward(torch.tensor([3]), None)
    hidden = torch.zeros(1, 6, 2)
    hidden[0, 0] = torch.nan
    search.note_input(hidden)
    moved = hidden.clone()
    moved[0, 2] = 1.0
    search.look(moved, Inputs({"input_ids": torch.tensor([[1, 2, 3, 4, 5, 6]])}))
    assert search.window.inside(torch.device("cpu"))[0, 0] == 2


class Joined(LlamaModel):
    """A model whose layers do not form a chain: the last takes what the first gave, too."""

    def forward(self, input_ids=None, **_):
        hidden = self.embed_tokens(input_ids)
        places = torch.arange(input_ids.shape[1])[None]
        rotary = self.rotary_emb(hidden, places)
        gave = []
        for layer in self.layers:
            if layer is self.layers[-1]:
                hidden = hidden + gave[0]
            hidden = layer(hidden, position_ids=places, position_embeddings=rotary)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            gave.append(hidden)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden))


def test_layers_below_give_each_its_own():
    model = tiny_llama(layers=6).requires_grad_(False)
    model.model.__class__ = Joined
    full, part = (trial(model, batch(9, 9, 9), edited=3) for _ in range(2))
    expected = full.run(False)
    same(part.run(True), expected)
    assert part.left_out > 0.5
    same(part.outputs[-1].logits[:, READ], full.outputs[-1].logits[:, READ])


class WritingIntoItsInput(LlamaDecoderLayer):
    def forward(self, hidden_states, *args, **kwargs):
        hidden_states += 0.3 * hidden_states.detach().tanh()
        return super().forward(hidden_states, *args, **kwargs)


@pytest.mark.parametrize("index", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_that_writes_into_its_input(index, dtype):
    """Layer 1 is edited, so what layer 0 gave is spoiled; 2 and 3 are above it."""
    model = model_().to(dtype)
    model.model.layers[index].__class__ = WritingIntoItsInput
    full, part = trial(model), trial(model)
    expected = full.run(False)
    assert torch.equal(part.run(True), expected)
    assert part.remark == "a layer writes into what another gave, in place"
