"""Putting the loss term into a toolkit's own optimisation loop.

Editors of this family end each step alike: ``loss = a + b + c``, then print it, stop early on
it, ``loss.backward()``, ``opt.step()``. The term goes into that assignment, in a copy of the
function's syntax tree: it is then part of the loss's value, gradient, printout and stopping
rule, and nothing of torch or of the toolkit is changed.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from functools import cache
from types import CellType, CodeType, FunctionType
from typing import Any

from .errors import UnsupportedLoopError

LossTerm = Callable[[Any], Any]
"""Takes the loss a step has computed and returns the loss to go on with."""

Finished = Callable[[], bool]
"""Asked after each step's own stopping rules: whether to leave the loop before going back."""

_TERM = "__sadr_loss_term__"
_FINISHED = "__sadr_finished__"
_SHELL = "__sadr_shell__"


def never() -> bool:
    """The toolkit's own rules alone end the loop."""
    return False


def with_loss_term(
    function: FunctionType, term: LossTerm, finished: Finished = never
) -> FunctionType:
    """A twin of ``function`` whose loop passes its loss through ``term``, till ``finished``.

    The twin runs in the original globals, with the original defaults, closure, file name and
    line numbers. ``function`` itself is not changed.

    Raises:
        UnsupportedLoopError: naming the function and what was looked for in vain.
    """
    code = _rewritten_code(function)
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells[_TERM] = CellType(term)
    cells[_FINISHED] = CellType(finished)
    twin = FunctionType(
        code,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(cells[name] for name in code.co_freevars),
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__qualname__ = function.__qualname__
    twin.__module__ = function.__module__
    return twin


@cache
def _rewritten_code(function: FunctionType) -> CodeType:
    """The twin's code, compiled once for each function."""
    name = f"{function.__module__}.{function.__qualname__}"
    definition = _definition(function.__code__, name)
    insert_term(definition, name)

    # Defaults and annotations live on the function object; evaluating them again could fail.
    definition.decorator_list = []
    definition.returns = None
    arguments = definition.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        argument.annotation = None
    for extra in (arguments.vararg, arguments.kwarg):
        if extra is not None:
            extra.annotation = None
    # Inside a shell whose parameters are the free variables, the compiler sees closures.
    free = [*function.__code__.co_freevars, _TERM, _FINISHED]
    shell = ast.parse(f"def {_SHELL}({', '.join(free)}): pass").body[0]
    assert isinstance(shell, ast.FunctionDef)
    shell.body = [definition]
    module = ast.fix_missing_locations(ast.Module(body=[shell], type_ignores=[]))
    module_code = compile(module, function.__code__.co_filename, "exec", dont_inherit=True)
    return _nested(_nested(module_code, _SHELL), definition.name)


def _definition(code: CodeType, name: str) -> ast.FunctionDef:
    """The ``def`` that ``code`` was compiled from, with the line numbers of its file."""
    try:
        lines, _ = inspect.findsource(code)
        tree = ast.parse("".join(lines))
    except (OSError, TypeError, SyntaxError) as error:
        raise UnsupportedLoopError(
            f"{name}: its source cannot be read, so the loss term cannot be put in"
        ) from error
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if first == code.co_firstlineno:
                return node
    raise UnsupportedLoopError(f"{name}: expected a plain `def`, its file holds none there")


def _nested(code: CodeType, name: str) -> CodeType:
    return next(
        constant
        for constant in code.co_consts
        if isinstance(constant, CodeType) and constant.co_name == name
    )


def insert_term(definition: ast.FunctionDef, name: str) -> None:
    """Insert ``loss = term(loss)`` after the last assignment to the name that is backpropagated,
    and ``if finished(): break`` before the backpropagation. That leaves the innermost loop, which
    is an editor's only one.

    The step is the innermost block that holds both: ``X.backward()`` as a statement of a loop's
    body, and before it, in the same body, an assignment to ``X``. Raises `UnsupportedLoopError`,
    naming ``name``, where there is no such step.
    """
    steps = [
        (body, index, target)
        for body in _loop_bodies(definition)
        for index, statement in enumerate(body)
        if (target := _backpropagated(statement)) is not None
    ]
    if len(steps) != 1:
        raise UnsupportedLoopError(
            f"{name}: looked for one loop with a statement `loss.backward()` in it, "
            f"found {len(steps)}"
        )
    body, backward, target = steps[0]
    stores = [index for index in range(backward) if _stores(body[index], target)]
    if not stores:
        raise UnsupportedLoopError(
            f"{name}: looked for an assignment to `{target}` in the loop before "
            f"`{target}.backward()` (line {body[backward].lineno}), found none"
        )
    last = stores[-1]
    if not _may_be_followed(body[last], target):
        raise UnsupportedLoopError(
            f"{name}: `{target}` gets its last value inside the statement of line "
            f"{body[last].lineno}; a plain assignment to it was looked for"
        )
    _insert(body, backward, f"if {_FINISHED}(): break", body[backward])
    _insert(body, last + 1, f"{target} = {_TERM}({target})", body[last])


def _insert(body: list[ast.stmt], index: int, code: str, place: ast.stmt) -> None:
    """Insert one statement, with the line number of ``place``."""
    statement = ast.parse(code).body[0]
    for node in ast.walk(statement):
        ast.copy_location(node, place)
    body.insert(index, statement)


def _loop_bodies(definition: ast.FunctionDef) -> list[list[ast.stmt]]:
    """The bodies of the function's own loops, and of the blocks inside them."""
    bodies: list[list[ast.stmt]] = []

    def visit(statements: list[ast.stmt], in_loop: bool) -> None:
        if in_loop:
            bodies.append(statements)
        for statement in statements:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            for field in ("body", "orelse", "finalbody"):
                # A loop's else is run once, after it.
                enters = field == "body" and isinstance(statement, (ast.For, ast.While))
                inner = getattr(statement, field, None)
                if isinstance(inner, list) and inner:
                    visit(inner, in_loop or enters)

    visit(definition.body, in_loop=False)
    return bodies


def _backpropagated(statement: ast.stmt) -> str | None:
    """``X`` if the statement is ``X.backward(…)``."""
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return None
    called = statement.value.func
    if not isinstance(called, ast.Attribute) or called.attr != "backward":
        return None
    return called.value.id if isinstance(called.value, ast.Name) else None


def _stores(statement: ast.stmt, name: str) -> bool:
    """Whether the statement binds ``name``, at whatever depth."""
    return any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
        for node in ast.walk(statement)
    )


def _may_be_followed(statement: ast.stmt, name: str) -> bool:
    """Whether the value ``statement`` gives ``name`` is used by nothing before its end.

    So it is with an assignment, and with a ``with`` block (autocast) that only computes.
    """
    if isinstance(statement, ast.With):
        *others, last = statement.body
        return not any(_stores(other, name) for other in others) and _may_be_followed(last, name)
    if isinstance(statement, ast.Assign):
        targets: list[ast.expr] = statement.targets
    elif isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
        targets = [statement.target]
    else:
        return False
    return any(_stores(ast.Expr(target), name) for target in targets)
