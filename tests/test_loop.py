import inspect
import traceback
from typing import ClassVar

import pytest
from smalledit import editor

from sadr_plugin.errors import UnsupportedLoopError
from sadr_plugin.loop import with_loss_term


class Number:
    """Stands for a tensor: remembers what was backpropagated."""

    seen: ClassVar[list] = []

    def __init__(self, value):
        self.value = value

    def __add__(self, other):
        return Number(self.value + getattr(other, "value", other))

    def backward(self):
        Number.seen.append(self.value)


OFFSET = 10


def closed_over(factor):
    def loop(steps: "undefined name", *, default=[factor]):  # noqa: B006, F722
        printed = []
        for step in range(steps):
            loss = Number(step)
            loss += OFFSET
            loss = loss + default[0] * factor
            printed.append(loss.value)
            if loss.value > 1000:
                break
            loss.backward()
        return printed

    return loop


def test_the_term_is_in_value_printout_and_gradient():
    loop = closed_over(2)
    Number.seen = []
    twin = with_loss_term(loop, lambda loss: loss + 100)
    assert twin(2) == [114, 115]
    assert Number.seen == [114, 115]
    assert loop(2) == [14, 15], "the original is unchanged"


def test_the_term_decides_the_early_stop():
    assert with_loss_term(closed_over(2), lambda loss: loss + 1000)(5) == [1014]


def test_globals_are_the_originals(monkeypatch):
    twin = with_loss_term(closed_over(0), lambda loss: loss)
    monkeypatch.setitem(globals(), "OFFSET", 50)
    assert twin(1) == [50]
    assert twin.__globals__ is globals()


def test_signature_and_lines_are_the_originals():
    loop = closed_over(2)

    def fail(_loss):
        raise RuntimeError("here")

    twin = with_loss_term(loop, fail)
    assert (
        inspect.signature(twin)
        == inspect.signature(
            loop.__class__(twin.__code__, {}, loop.__name__, loop.__defaults__, twin.__closure__)
        )
        or inspect.signature(twin).parameters.keys() == inspect.signature(loop).parameters.keys()
    )
    with pytest.raises(RuntimeError) as caught:
        twin(1)
    frame = traceback.extract_tb(caught.value.__traceback__)[1]
    assert frame.filename == __file__
    assert frame.line == "loss = loss + default[0] * factor"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (editor.no_backward, r"no_backward: looked for one loop with a statement .* found 0"),
        (editor.two_losses, r"two_losses: looked for one loop with a statement .* found 2"),
        (editor.loss_from_outside, r"loss_from_outside: looked for an assignment to `loss`"),
    ],
)
def test_another_form_is_refused_by_name(function, message):
    with pytest.raises(UnsupportedLoopError, match=message):
        with_loss_term(function, lambda loss: loss)


def test_a_function_without_source_is_refused():
    namespace = {}
    exec("def f():\n    pass", namespace)
    with pytest.raises(UnsupportedLoopError, match="source cannot be read"):
        with_loss_term(namespace["f"], lambda loss: loss)
