"""The names of nnsight's that the plugin uses beyond its documentation, each by itself: a release
that moves one fails here by that name. The two test environments hold the oldest release that is
supported and the newest."""

import contextlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from sadr_plugin.attention import _nnsight

HERE = Path(__file__).parent


class Twice(nn.Module):
    def forward(self, x):
        y = torch.softmax(x, -1)
        return torch.softmax(y + 1, -1)


class Root(nn.Module):
    def __init__(self):
        super().__init__()
        self.twice = Twice()

    def forward(self, run):
        return run()


@pytest.fixture
def nnsight():
    return _nnsight.import_nnsight()


@pytest.fixture
def source(nnsight):
    return nnsight.NNsight(Root()).twice.source


def test_unmount():
    script = "import nnsight; from nnsight._c import unmount; assert hasattr(object, 'save'); "
    script += "unmount('save'); assert not hasattr(object, 'save')"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_out_of_order_error():
    from nnsight.intervention.interleaver import OutOfOrderError

    assert issubclass(OutOfOrderError, Exception)


def test_operations_have_a_label_and_a_line(source):
    names = [operation.name for operation in source]
    assert any(re.search(r"(^|_)softmax_\d+$", name) for name in names), names
    assert all(isinstance(operation.line, int) for operation in source)


def test_the_source_is_compiled(source):
    assert "def forward(self, x)" in source.compiled.source


def test_lines_are_counted_from_the_functions_first(source):
    found = list(_nnsight.operations(source, "softmax"))
    lines = [_nnsight.line_of(source, operation) for operation in found]
    assert ["y = torch.softmax" in lines[0], "return torch.softmax" in lines[1]] == [True, True]


def test_a_trace_gives_result_inputs_and_output(nnsight, source):
    root = Root()
    wrapped = nnsight.NNsight(root)
    first, second = _nnsight.operations(wrapped.twice.source, "softmax")
    x = torch.tensor([[0.0, 1.0]])
    reads = [lambda: first.inputs, lambda: second.output]
    output, (inputs, last) = _nnsight.observe(wrapped, lambda: root.twice(x), reads)
    assert torch.equal(inputs[0][0], x)
    assert torch.equal(last, output)
    with pytest.raises(_nnsight.NotCalled):
        _nnsight.observe(wrapped, lambda: torch.ones(1), reads)


class Unready(Root):
    def forward(self, run):
        raise KeyError("no such layer")


@pytest.mark.parametrize(("of", "fails"), [(Root, False), (Root, True), (Unready, True)])
def test_a_debugger_is_there_during_the_forward_and_afterwards(nnsight, of, fails):
    """It sees the call and the return of a function, or neither."""
    seen = {"call": [], "return": []}

    def tracing(frame, event, argument):
        if event in seen and frame.f_code is not observed.f_code:
            seen[event].append(frame.f_code.co_name)
        return tracing

    def traced_forward():
        if fails:
            raise KeyError("no such layer")
        return root.twice(torch.ones(2))

    root, observed = of(), sys._getframe()
    wrapped, before = nnsight.NNsight(root), sys.gettrace()
    sys.settrace(tracing)
    try:
        with pytest.raises(KeyError) if fails else contextlib.nullcontext():
            _nnsight.observe(wrapped, traced_forward, [])
        kept = sys.gettrace()
        text_after = str(wrapped)
    finally:
        sys.settrace(before)
    assert kept is tracing
    assert ("traced_forward" in seen["call"]) == (of is Root)
    unpaired = Counter(seen["call"])
    unpaired.subtract(seen["return"])
    assert not any(unpaired.values())
    assert text_after


def test_what_is_put_on_a_module_is_in_its_dict(nnsight):
    """So that what was put there can be found by comparing, and taken away again."""
    root = Root()
    before = dict(vars(root.twice))
    _ = nnsight.NNsight(root).twice.source
    added = vars(root.twice).keys() - before.keys()
    assert added == {"forward", "__nnsight__"}
    for name in added:
        del root.twice.__dict__[name]
    x = torch.tensor([[0.0, 1.0]])
    assert torch.equal(root.twice(x), Twice()(x))


LEFT_BEHIND = """
import builtins, sys, threading, types, warnings
import torch, transformers
import sadr_plugin
from smalledit import editor
from smalledit.hparams import SmallHparams
from support import SmallAdapter, tiny_llama, word_tokenizer

def held(of):
    return dict(vars(of))

def process():
    places = {"builtins": held(builtins), "object": {name: None for name in dir(object)}}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("torch", "transformers") and type(module) is types.ModuleType:
            places[name] = held(module)
    for kind in (torch.Tensor, torch.nn.Module, torch.nn.Parameter, torch.autograd.Function, type):
        places[kind] = held(kind)
    places["interpreter"] = {
        "trace": sys.gettrace(), "profile": sys.getprofile(), "hook": sys.excepthook,
        "displayhook": sys.displayhook, "thread hook": threading.excepthook,
        "unraisable": sys.unraisablehook, "recursion": sys.getrecursionlimit(),
        "gradients": torch.is_grad_enabled(), "threads": torch.get_num_threads(),
        "modes": torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack(),
        **{f"filter {filter}": None for filter in warnings.filters},
        **{f"finder {finder!r}": None for finder in sys.meta_path},
        **{f"path {path}": None for path in sys.path},
    }
    return places

adapter = SmallAdapter()
sadr_plugin.plugin_manager().register(adapter)
model, request = tiny_llama(), {"prompt": "the {} is in", "subject": "tower", "target": "rome"}
def edit(**flag):
    editor.optimise(model, word_tokenizer(), request, SmallHparams(**flag))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    edit()
    sadr_plugin.enable()
    before = process()
    edit(sadr=True)
    after = process()
assert adapter.reports and "nnsight" in sys.modules
for place, known in before.items():
    for name in known.keys() | after[place].keys():
        was, now = known.get(name, "absent"), after[place].get(name, "absent")
        # A submodule that was imported since then is an attribute of its package.
        if was is not now and was != now and not isinstance(now, types.ModuleType):
            print(place, name, was, now)

weight = torch.ones(2, requires_grad=True)
loss = (2 * weight).sum()
with torch.autograd.profiler.record_function("backward"):
    loss.backward()
with torch.autograd.profiler.record_function("backward"): (2 * weight).sum().backward()
if weight.grad is None or weight.grad.tolist() != [4, 4]:
    print("a training step has the gradient", weight.grad)
"""


def test_an_edit_leaves_torch_builtins_and_the_interpreter_as_they_were(tmp_path):
    """It runs from a file, because nnsight reads the source of a ``with`` block."""
    script = tmp_path / "left_behind.py"
    script.write_text(LEFT_BEHIND)
    run = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(HERE)])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""


def test_an_import_that_is_interrupted_leaves_backward_as_it_was():
    script = """
import sys, torch
before = torch.Tensor.backward

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "nnsight.ndif":  # after the replacement of backward
            raise KeyboardInterrupt

from sadr_plugin.attention._nnsight import import_nnsight
sys.meta_path.insert(0, Interrupting())
try:
    import_nnsight()
except KeyboardInterrupt:
    assert torch.Tensor.backward is before
else:
    raise SystemExit("was not interrupted")
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_users_own_nnsight_keeps_what_it_changed():
    script = """
import torch
before = torch.Tensor.backward
import nnsight
theirs = torch.Tensor.backward
assert theirs is not before and hasattr(object, "save")
from sadr_plugin.attention._nnsight import import_nnsight
assert import_nnsight() is nnsight
assert torch.Tensor.backward is theirs and hasattr(object, "save")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
