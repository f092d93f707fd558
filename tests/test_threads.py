"""Other threads use the model that is edited: both sides get what they get alone."""

import threading

import pytest
import torch

import sadr_plugin
from sadr_plugin import DriftProbe, Edit, Prompt
from sadr_plugin.errors import BusyModelError
from smalledit.hparams import SmallHparams
from support import attributes, tiny_llama

IDS = torch.tensor([[2, 3, 4, 5, 6, 7]])


def whole_model(model):
    return model(IDS).logits


def inner_model(model):
    return model.lm_head(model.model(IDS)[0])


def one_attention(model):
    place = torch.arange(3)[None]
    hidden = torch.linspace(-1, 1, 96).view(1, 3, 32)
    rotary = model.model.rotary_emb(hidden, place)
    attend = model.model.layers[3].self_attn
    return attend(hidden, position_embeddings=rotary, attention_mask=None)[0]


class Meanwhile:
    """Runs something in another thread, in the middle of each forward of this one."""

    def __init__(self, model, run):
        self.run, self.model = run, model
        self.found, self.errors = [], []
        self._thread = threading.get_ident()
        model.model.layers[2].mlp.act_fn.register_forward_hook(self._hook)

    def _hook(self, *_):
        if threading.get_ident() == self._thread:
            other = threading.Thread(target=self._other)
            other.start()
            other.join()

    def _other(self):
        try:
            with torch.no_grad():
                self.found.append(self.run(self.model))
        except BaseException as error:
            self.errors.append(error)


@pytest.mark.parametrize("run", [whole_model, inner_model, one_attention])
@pytest.mark.parametrize("flag", [{}, {"reuse": False}, {"keep": True}], ids=str)
def test_another_thread_in_the_middle_of_each_forward(small, word_tokenizer, request_, flag, run):
    hparams = SmallHparams(sadr={"gamma": 1.0, **flag})
    expected, _ = small.optimise(tiny_llama(), word_tokenizer, request_, hparams)
    model = tiny_llama().requires_grad_(False)
    with torch.no_grad():
        alone = run(model)
    meanwhile = Meanwhile(model, run)
    before = attributes(model)
    vector, _ = small.optimise(model, word_tokenizer, request_, hparams)
    assert meanwhile.errors == []
    assert len(meanwhile.found) > hparams.v_num_grad_steps
    assert all(torch.equal(found, alone) for found in meanwhile.found)
    torch.testing.assert_close(vector, expected)
    assert attributes(model) == before
    assert len(sadr_plugin.last_report().steps) == hparams.v_num_grad_steps


def test_a_thread_that_never_stops(small, word_tokenizer, request_):
    """At moments that nobody chose, such as between two hooks."""
    hparams = SmallHparams(sadr={"gamma": 1.0, "keep": True}, v_num_grad_steps=10)
    expected, _ = small.optimise(tiny_llama(), word_tokenizer, request_, hparams)
    model, stop, wrong = tiny_llama(), threading.Event(), []
    with torch.no_grad():
        alone = whole_model(model)

    def serve():
        while not stop.is_set():
            try:
                with torch.no_grad():
                    wrong.extend([] if torch.equal(whole_model(model), alone) else ["figures"])
            except BaseException as error:
                wrong.append(error)

    server = threading.Thread(target=serve)
    server.start()
    try:
        vector, _ = small.optimise(model, word_tokenizer, request_, hparams)
    finally:
        stop.set()
        server.join()
    assert wrong == []
    assert torch.equal(vector, expected)


def test_drift_is_not_read_in_the_middle_of_another_threads_edit(small, word_tokenizer, request_):
    """In the edit's own thread it may be."""
    model, refused, read = tiny_llama(), [], []
    edit = Edit(model, word_tokenizer, [Prompt("the ", "tower", " is in")], 1, "model.layers.{}")

    def probe():
        try:
            read.append(DriftProbe(edit).drift())
        except BusyModelError as error:
            refused.append(str(error))

    def on_step(_):
        other = threading.Thread(target=probe)
        other.start()
        other.join()
        probe()

    hparams = SmallHparams(sadr={"gamma": 1.0})
    small.optimise(model, word_tokenizer, request_, hparams, on_step=on_step)
    steps = hparams.v_num_grad_steps
    assert (len(refused), len(read)) == (steps, steps)
    assert "in another thread" in refused[0]


def test_a_model_that_the_user_wrapped(small, word_tokenizer, request_):
    """With an nnsight of their own, which stays."""
    import nnsight

    model = tiny_llama().requires_grad_(False)
    with torch.no_grad():
        alone = whole_model(model)
    theirs = nnsight.NNsight(model)
    before = [type(vars(module).get("forward")) for module in model.modules()]
    meanwhile = Meanwhile(model, whole_model)
    small.optimise(model, word_tokenizer, request_, SmallHparams(sadr={"gamma": 1.0}))
    assert meanwhile.errors == []
    assert all(torch.equal(found, alone) for found in meanwhile.found)
    assert [type(vars(module).get("forward")) for module in model.modules()] == before
    with theirs.trace(input_ids=IDS):
        hidden = nnsight.save(theirs.model.layers[1].output)
    assert hidden is not None
