"""The names of nnsight's that the plugin uses beyond its documentation, each by itself: a release
that moves one fails here by that name. The two test environments hold the oldest release that is
supported and the newest."""

import contextlib
import re
import subprocess
import sys
from collections import Counter

import pytest
import torch
from torch import nn

from sadr_plugin.attention import _nnsight


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
