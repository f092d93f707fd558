"""Whatever goes wrong in an edit, and wherever: the error comes out as it was raised, and model,
toolkit, torch and nnsight are as they were."""

import contextlib
import itertools
import linecache
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import nnsight
import pytest
import torch

import sadr_plugin
import support
from sadr_plugin import hookimpl
from sadr_plugin.attention._tracer import AttentionTracer
from sadr_plugin.errors import BusyModelError
from sadr_plugin.reuse._forwards import LayerForwards
from sadr_plugin.reuse._slot import ForwardSlot
from sadr_plugin.testing import registered
from smalledit.hparams import SmallHparams
from support import attributes, tiny_llama

FLAG = {"gamma": 1.0}


def edit(small, model, tok, request, sadr=FLAG, **options):
    return small.optimise(model, tok, request, SmallHparams(sadr=sadr), **options)


def globals_now():
    """What of the process an edit must not change."""
    return {
        "backward": torch.Tensor.backward,
        "call": torch.nn.Module.__call__,
        "step": torch.optim.Adam.step,
        "grad": torch.is_grad_enabled(),
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "mount": hasattr(object, "save"),
        "trace": sys.gettrace(),
        "nnsight": (nnsight.NNsight, nnsight.save),
        "plugins": len(sadr_plugin.plugin_manager().get_plugins()),
    }


class Own(BaseException):
    pass


ERRORS = [ValueError("injected"), KeyboardInterrupt("injected"), SystemExit(3), Own("injected")]


class Fault:
    """Raises ``error`` the nth time it is reached."""

    def __init__(self, error, nth=1):
        self.error = error
        self.left = nth

    def __call__(self, *_, **__):
        self.left -= 1
        if self.left == 0:
            raise self.error


@contextlib.contextmanager
def in_module(name, fault, model, monkeypatch):
    hook = model.get_submodule(name).register_forward_pre_hook(fault)
    try:
        yield {}
    finally:
        hook.remove()


@contextlib.contextmanager
def in_hook(name, fault, model, monkeypatch):
    class Plugin:
        pass

    def hook():
        fault()

    plugin = Plugin()
    setattr(plugin, name, hookimpl(tryfirst=True)(hook))
    with registered(plugin):
        yield {}


@contextlib.contextmanager
def in_patch(target, name, fault, model, monkeypatch):
    with monkeypatch.context() as patch:
        original = getattr(target, name)

        def replacement(*args, **kwargs):
            fault()
            return original(*args, **kwargs)

        patch.setattr(target, name, replacement)
        yield {}


@contextlib.contextmanager
def in_the_loop(fault, model, monkeypatch):
    yield {"on_step": fault}


def somewhere(manager, *arguments):
    return lambda fault, model, monkeypatch: manager(*arguments, fault, model, monkeypatch)


POINTS = {
    "before the first forward": (somewhere(in_module, "model.embed_tokens"), 1),
    "in the first traced forward, before the attention": (
        somewhere(in_module, "model.layers.2"),
        2,
    ),
    "in a later forward without gradients": (somewhere(in_module, "model.layers.3"), 3),
    "inside a watched attention": (somewhere(in_module, "model.layers.2.self_attn.k_proj"), 4),
    "inside the last watched attention": (
        somewhere(in_module, "model.layers.3.self_attn.o_proj"),
        2,
    ),
    "after all attention": (somewhere(in_module, "lm_head"), 4),
    "between loss and backward": (in_the_loop, 2),
    "in backward": (somewhere(in_patch, torch.Tensor, "backward"), 2),
    "between backward and step": (somewhere(in_patch, torch.optim.Adam, "step"), 2),
    "in the selection of heads": (somewhere(in_hook, "sadr_selected_heads"), 1),
    "in the penalty": (somewhere(in_hook, "sadr_penalty"), 2),
    "in a step's hook": (somewhere(in_hook, "sadr_step"), 1),
    "at close": (somewhere(in_hook, "sadr_edit_finished"), 1),
    "in looking for attention": (somewhere(in_hook, "sadr_attention_module"), 2),
    "when nnsight wraps the model": (somewhere(in_patch, nnsight, "NNsight"), 1),
    "when nnsight saves": (somewhere(in_patch, nnsight, "save"), 3),
}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("point", POINTS)
def test_a_fault(point, error, small, small_adapter, word_tokenizer, request_, monkeypatch):
    expected = edit(small, tiny_llama(), word_tokenizer, request_)
    model = tiny_llama().requires_grad_(False)  # as the toolkit leaves it
    before, process = attributes(model), globals_now()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    error = type(error)(*error.args)
    inject, nth = POINTS[point]
    with (
        inject(Fault(error, nth), model, monkeypatch) as options,
        pytest.raises(type(error)) as caught,
    ):
        edit(small, model, word_tokenizer, request_, **options)
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    assert traceback.extract_tb(error.__traceback__)[-1].name in ("__call__", "hook")
    assert attributes(model) == before
    assert globals_now() == process
    assert all(torch.equal(weight, weights[n]) for n, weight in model.state_dict().items())
    assert sadr_plugin.attached()
    again = edit(small, model, word_tokenizer, request_)
    assert torch.equal(again[0], expected[0]), "the next edit is as if nothing had been"


def test_a_term_whose_weight_raises_at_the_end(small, word_tokenizer, request_):
    """The report asks for it once more."""
    error = ValueError("no weight now")

    class Term:
        name = "odd"
        ended = False

        @property
        def weight(self):
            if self.ended:
                raise error
            return 0.0

        def value(self):
            return torch.zeros(())

    term = Term()

    class Plugin:
        @hookimpl
        def sadr_loss_terms(self, running, config):
            return [term]

        @hookimpl
        def sadr_step(self, step):
            term.ended = step.index == 5

    model = tiny_llama().requires_grad_(False)
    before = attributes(model)
    with registered(Plugin()), pytest.raises(ValueError, match="no weight now"):
        edit(small, model, word_tokenizer, request_)
    assert attributes(model) == before
    edit(small, model, word_tokenizer, request_)


@contextlib.contextmanager
def interrupt_at(nth, *functions):
    """Ctrl-C at the nth line that is run in these functions, but in no `with` that takes a lock."""
    codes, left = {function.__code__ for function in functions}, nth

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code not in codes:
            return None
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and "with _lock" not in line:
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def interrupted_at_every_line(run, *functions):
    """Run it with an interrupt at each line in turn, and yield after each."""
    for nth in itertools.count(1):
        try:
            with interrupt_at(nth, *functions):
                run()
        except KeyboardInterrupt:
            yield
        else:
            assert nth > 5
            return


def test_an_interrupt_while_a_forward_is_replaced():
    """Accelerate keeps a wrapper in the same place."""
    model = tiny_llama()
    model.forward = model.forward
    before, slots = attributes(model), []

    def fill():
        slots.append(ForwardSlot(model))
        slots[-1].fill(lambda forward, *args, **kwargs: forward(*args, **kwargs))

    for _ in interrupted_at_every_line(fill, ForwardSlot.fill):
        slots[-1].restore()
        assert attributes(model) == before
    slots[-1].restore()
    assert attributes(model) == before


def test_an_interrupt_while_the_layers_forwards_are_restored():
    model = tiny_llama()
    before = attributes(model)

    def restore():
        forwards = LayerForwards(model, model.model.layers)
        forwards.fill()
        forwards.restore()

    for _ in interrupted_at_every_line(restore, ForwardSlot.restore):
        assert attributes(model) == before


def test_an_interrupt_while_nnsight_wraps_the_model():
    model = tiny_llama()
    attention = {layer: model.model.layers[layer].self_attn for layer in (2, 3)}
    before = attributes(model)

    def trace():
        with AttentionTracer(attention):
            pass

    noting = AttentionTracer._note_what_is_left
    for _ in interrupted_at_every_line(trace, AttentionTracer.__enter__, noting):
        assert attributes(model) == before


def test_disable_in_the_middle_of_an_edit(small, word_tokenizer, request_):
    expected = edit(small, tiny_llama(), word_tokenizer, request_)
    model = tiny_llama().requires_grad_(False)
    before = attributes(model)
    found = edit(small, model, word_tokenizer, request_, on_step=lambda step: sadr_plugin.disable())
    assert torch.equal(found[0], expected[0]), "it goes on as it began"
    assert sadr_plugin.attached() == []
    assert attributes(model) == before


def test_enable_in_the_middle_of_an_edit(small, small_adapter, word_tokenizer, request_):
    sadr_plugin.disable()
    hparams = SmallHparams()
    hparams.sadr = FLAG  # set, but nothing is there to read it
    alone = small.optimise(tiny_llama(), word_tokenizer, request_, hparams)
    found = small.optimise(
        tiny_llama(),
        word_tokenizer,
        request_,
        hparams,
        on_step=lambda step: sadr_plugin.enable(),
    )
    assert torch.equal(found[0], alone[0]), "it goes on as it began"
    assert small_adapter.reports == []
    small.optimise(tiny_llama(), word_tokenizer, request_, hparams)
    assert len(small_adapter.reports) == 1


def test_an_edit_inside_an_edit(small, small_adapter, word_tokenizer, request_):
    other = {**request_, "subject": "louvre", "target": "paris"}
    outer_alone = edit(small, tiny_llama(), word_tokenizer, request_)
    inner_alone = edit(small, tiny_llama(), word_tokenizer, other)
    outer_model = tiny_llama().requires_grad_(False)
    before, inner = attributes(outer_model), []

    def nested(step):
        if step == 2:
            inner.append(edit(small, tiny_llama(), word_tokenizer, other))

    outer = edit(small, outer_model, word_tokenizer, request_, on_step=nested)
    assert attributes(outer_model) == before
    assert torch.equal(inner[0][0], inner_alone[0])
    assert torch.equal(outer[0], outer_alone[0])
    again = edit(small, outer_model, word_tokenizer, request_)
    assert torch.equal(again[0], outer_alone[0])


def test_a_second_edit_of_the_same_model_is_refused(small, word_tokenizer, request_):
    """Closed in the order they were opened, two would leave a dead wrapper behind."""
    model = tiny_llama().requires_grad_(False)
    expected = edit(small, tiny_llama(), word_tokenizer, request_)
    before, refused = attributes(model), []

    def nested(step):
        with pytest.raises(BusyModelError, match="LlamaForCausalLM is being edited with SADR"):
            edit(small, model, word_tokenizer, request_)
        refused.append(step)

    found = edit(small, model, word_tokenizer, request_, on_step=nested)
    assert len(refused) == len(found[1])
    assert torch.equal(found[0], expected[0]), "the first edit does not notice"
    assert attributes(model) == before
    assert torch.equal(edit(small, model, word_tokenizer, request_)[0], expected[0])


def test_eight_threads_edit_eight_models(small, word_tokenizer, request_):
    subjects = ["tower", "louvre", "city", "eiffel"] * 2
    requests = [{**request_, "subject": subject} for subject in subjects]
    alone = [edit(small, tiny_llama(), word_tokenizer, request) for request in requests]
    models = [tiny_llama().requires_grad_(False) for _ in requests]
    before = [attributes(model) for model in models]
    found = [None] * len(requests)

    tokenizers = [support.word_tokenizer() for _ in requests]  # one is not safe to share

    def run(place):
        found[place] = edit(small, models[place], tokenizers[place], requests[place])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, alone, strict=True):
        assert one is not None
        # Threads share the processor differently; sums may differ in their last bits.
        torch.testing.assert_close(one[0], other[0], rtol=1e-3, atol=1e-4)
    assert [attributes(model) for model in models] == before


FORK = """
import os, sys
sys.path[:0] = {path!r}
import torch
torch.set_num_threads(1)
import sadr_plugin
from smalledit import editor
import support
from smalledit.hparams import SmallHparams
from support import SmallAdapter, tiny_llama, word_tokenizer
sadr_plugin.plugin_manager().register(SmallAdapter())
sadr_plugin.enable()
request = {{"prompt": "the {{}} is in", "subject": "tower", "target": "rome"}}
def edit():
    hparams = SmallHparams(sadr={{"gamma": 1.0}})
    return editor.optimise(tiny_llama(), word_tokenizer(), request, hparams)[0]
{first}
child = os.fork()
found = edit()
torch.save(found, "child.pt" if child == 0 else "parent.pt")
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert torch.equal(torch.load("child.pt"), torch.load("parent.pt"))
print("same")
"""


@pytest.mark.parametrize("first", ["", "edit()"], ids=["enabled", "after an edit"])
def test_fork_after_enable(first, tmp_path):
    script = FORK.format(path=[str(Path(__file__).parent), *sys.path], first=first)
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=120,
    )
    assert run.stdout.strip() == "same", run.stderr[-3000:]
