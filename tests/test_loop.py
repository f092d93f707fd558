import contextlib
import traceback
from typing import ClassVar

import pytest

from sadr_plugin.errors import UnsupportedLoopError
from sadr_plugin.loop import with_loss_term
from smalledit import editor


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


def test_finished_ends_the_loop_after_its_own_rules_and_before_going_back():
    Number.seen = []
    asked = iter([False, False, True])
    twin = with_loss_term(closed_over(2), lambda loss: loss + 100, lambda: next(asked))
    assert twin(5) == [114, 115, 116]
    assert Number.seen == [114, 115]


def test_globals_are_the_originals(monkeypatch):
    twin = with_loss_term(closed_over(0), lambda loss: loss)
    monkeypatch.setitem(globals(), "OFFSET", 50)
    assert twin(1) == [50]
    assert twin.__globals__ is globals()


def test_lines_are_the_originals():
    def fail(_loss):
        raise RuntimeError("here")

    twin = with_loss_term(closed_over(2), fail)
    with pytest.raises(RuntimeError) as caught:
        twin(1)
    frame = traceback.extract_tb(caught.value.__traceback__)[1]
    assert frame.filename == __file__
    assert frame.line == "loss = loss + default[0] * factor"


def unpacked():
    for _ in range(1):
        loss, _ = Number(1), None
        loss.backward()


def in_a_with_block():
    for _ in range(1):
        with contextlib.nullcontext():
            value = 1
            loss = Number(value)
        loss.backward()


class Editor:
    @staticmethod
    def method():
        """A docstring with a line
        at the margin."""
        for _ in range(1):
            loss = Number(1)
            loss.backward()


@pytest.mark.parametrize("function", [unpacked, in_a_with_block, Editor.method])
def test_forms_of_assignment(function):
    Number.seen = []
    with_loss_term(function, lambda loss: loss + 100)()
    assert Number.seen == [101]


def in_a_branch(flag=True):
    for _ in range(1):
        loss = Number(1)
        if flag:
            loss = Number(2)
        loss.backward()


def by_walrus():
    for _ in range(1):
        loss = Number(0)
        if (loss := Number(1)).value > 5:
            break
        loss.backward()


def stopped_inside_a_with_block():
    for _ in range(1):
        with contextlib.nullcontext():
            loss = Number(1)
            if loss.value > 5:
                break
        loss.backward()


@pytest.mark.parametrize("function", [in_a_branch, by_walrus, stopped_inside_a_with_block])
def test_a_term_that_would_be_lost_is_refused(function):
    with pytest.raises(UnsupportedLoopError, match="a plain assignment to it was looked for"):
        with_loss_term(function, lambda loss: loss)


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
