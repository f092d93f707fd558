import ast
import contextlib
import functools
import importlib
import sys
import traceback
from typing import ClassVar

import pytest

from sadr_plugin.errors import UnsupportedLoopError
from sadr_plugin.patching._loop import with_loss_term
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


class Private:
    __factor = 3

    def method(self):
        for _ in range(1):
            loss = Number(self.__factor)
            loss.backward()

    def through_super(self):
        for _ in range(1):
            loss = Number(len(super().__repr__()) * 0 + self.__factor)
            loss.backward()


@pytest.mark.parametrize("function", [Private.method, Private.through_super])
def test_names_of_a_class_are_its_own(function):
    Number.seen = []
    with_loss_term(function, lambda loss: loss + 100)(Private())
    assert Number.seen == [103]


def written(tmp_path, monkeypatch, source, name="written"):
    """A module made of ``source``, imported from a file."""
    file = tmp_path / f"{name}.py"
    file.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module(name), file


LOOP = """
from __future__ import annotations

def loop(number, factor=2):
    seen = []
    def inner(x: not_defined) -> not_defined: return x
    for _ in range(1):
        loss = number(inner(factor))
        seen.append(inner.__annotations__)
        loss.backward()
    return seen
"""


def test_future_imports_are_the_modules(tmp_path, monkeypatch):
    module, _ = written(tmp_path, monkeypatch, LOOP)
    twin = with_loss_term(module.loop, lambda loss: loss + 100)
    assert twin(Number) == module.loop(Number) == [{"x": "not_defined", "return": "not_defined"}]


@pytest.mark.parametrize(
    "change",
    [
        lambda source: source.replace("factor))", "factor) + 1)"),
        lambda source: source.replace("_ in range(1)", "_ in range(2)"),
        lambda source: "",
    ],
    ids=["loop", "constant", "emptied"],
)
def test_a_file_that_was_changed_since_its_import_is_refused(tmp_path, monkeypatch, change):
    """Else the twin would run what nobody has imported."""
    module, file = written(tmp_path, monkeypatch, LOOP)
    file.write_text(change(LOOP))
    with pytest.raises(UnsupportedLoopError, match=r"changed since its import|cannot be read"):
        with_loss_term(module.loop, lambda loss: loss)


@pytest.mark.parametrize(
    "change",
    [
        lambda source: source + "# more\n",
        lambda source: source.replace("def loop", "def other(): pass\n\n\ndef loop"),
        lambda source: source.replace("\ndef loop", "def loop"),
        lambda source: source.replace("def loop", "def loop(): pass\n\n\ndef loop"),
    ],
    ids=["below", "further down", "further up", "after another of its name"],
)
def test_a_loop_that_has_moved_in_its_file(tmp_path, monkeypatch, change):
    """Something else was changed. Errors show the lines of the file as it is now."""
    module, file = written(tmp_path, monkeypatch, LOOP)
    file.write_text(change(LOOP))
    Number.seen = []
    with_loss_term(module.loop, lambda loss: loss + 100)(Number)
    assert Number.seen == [102]
    with pytest.raises(AttributeError) as caught:
        with_loss_term(module.loop, lambda loss: None)(Number)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].line == "loss.backward()"


def test_a_loop_whose_code_is_replaced(tmp_path, monkeypatch):
    """The function is the same, and what was compiled for it before is not used."""
    module, file = written(tmp_path, monkeypatch, LOOP)
    with_loss_term(module.loop, lambda loss: loss + 100)(Number)
    source = LOOP.replace("factor=2", "factor=3").replace("inner(factor)", "inner(factor) + 1")
    file.write_text(source)
    names = dict(vars(module))
    exec(compile(source, file, "exec"), names)
    module.loop.__code__ = names["loop"].__code__
    module.loop.__defaults__ = names["loop"].__defaults__
    Number.seen = []
    with_loss_term(module.loop, lambda loss: loss + 100)(Number)
    assert Number.seen == [104]


def test_a_loop_that_was_compiled_alone(tmp_path, monkeypatch):
    """As IPython's autoreload does: its lines count from 1, and it has no comments."""
    docstring = '    """Two\n\n    lines."""  # a comment\n'
    source = LOOP.replace("    seen = []", f"{docstring}    seen = []")
    module, file = written(tmp_path, monkeypatch, source)
    (definition,) = (n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef))
    names = dict(vars(module), not_defined=int)
    exec(compile(ast.unparse(definition), file, "exec", dont_inherit=True), names)
    module.loop.__code__ = names["loop"].__code__
    vars(module)["not_defined"] = int
    Number.seen = []
    with_loss_term(module.loop, lambda loss: loss + 100)(Number)
    assert Number.seen == [102]


def same(function):
    return function


def wrapped(function):
    @functools.wraps(function)
    def outer(*args):
        return function(*args)

    return outer


@same
def registered():
    for _ in range(1):
        loss = Number(1)
        loss.backward()


@wrapped
def decorated():
    for _ in range(1):
        loss = Number(1)
        loss.backward()


@pytest.mark.parametrize("function", [registered, decorated])
def test_a_decorated_loop_is_refused(function):
    with pytest.raises(UnsupportedLoopError, match="is decorated"):
        with_loss_term(function, lambda loss: loss)


def with_labels(labels):
    for _ in range(1):
        loss = Number(1)
        labels = labels + 1
        loss.backward()


def test_the_term_is_given_the_loops_labels():
    Number.seen = []
    with_loss_term(with_labels, lambda loss, labels: loss + labels, labels="labels")(100)
    assert Number.seen == [101], "as they are where the term stands"
    with pytest.raises(UnsupportedLoopError, match="a variable `targets` with the target's"):
        with_loss_term(with_labels, lambda loss: loss, labels="targets")


def mentions_itself(times=1):
    for _ in range(times):
        loss = Number(len(mentions_itself.__name__))
        loss.backward()


class Mentioned:
    offset = 5

    def method(self):
        for _ in range(1):
            loss = Number(Mentioned.offset)
            loss.backward()


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [(mentions_itself, (), 115), (Mentioned.method, (Mentioned(),), 105)],
)
def test_a_loop_that_mentions_itself_means_the_toolkits(function, arguments, expected):
    Number.seen = []
    with_loss_term(function, lambda loss: loss + 100)(*arguments)
    assert Number.seen == [expected]


def inner_labels():
    for _ in range(1):
        loss = Number(sum(labels for labels in [1]))
        loss.backward()


def test_labels_of_an_inner_scope_are_none():
    with pytest.raises(UnsupportedLoopError, match="a variable `labels`"):
        with_loss_term(inner_labels, lambda loss, labels: loss, labels="labels")


def argument_labels(labels):
    for _ in range(1):
        loss = Number(1)
        loss.backward()


def test_labels_may_be_an_argument():
    Number.seen = []
    with_loss_term(argument_labels, lambda loss, labels: loss + labels, labels="labels")(7)
    assert Number.seen == [8]
