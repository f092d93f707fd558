"""Insert the loss term into a toolkit's own optimisation loop.

The editors end each step in the same way: ``loss = a + b + c``, a printout, an early stop,
``loss.backward()``, ``opt.step()``. The plugin copies the function's syntax tree and inserts the
term after that assignment. The term is then part of the loss's value, its gradient, its printout
and its stopping rule. Nothing in torch or the toolkit is changed.
"""

from __future__ import annotations
import __future__ as future

import ast
import linecache
import textwrap
import tokenize
import warnings
from collections.abc import Callable, Iterator
from types import CellType, CodeType, FunctionType
from typing import Any

from ..errors import UnsupportedLoopError

AddTerms = Callable[..., Any]
"""A function that takes the loss of a step and returns the loss with the terms.

It also takes the labels if they are named.
"""

Finished = Callable[[], bool]
"""A function that says whether to leave the loop.

It is called in each step after the loop's own stopping rules, before the backward pass.
"""

_TERM = "__sadr_loss_term__"
_FINISHED = "__sadr_finished__"
_SHELL = "__sadr_shell__"
_FUTURE = sum(getattr(future, name).compiler_flag for name in future.all_feature_names)


def never() -> bool:
    """Leave the end of the loop to the toolkit's own rules."""
    return False


def with_loss_term(
    function: FunctionType, term: AddTerms, finished: Finished = never, labels: str | None = None
) -> FunctionType:
    """Return a copy of ``function`` whose loop passes its loss through ``term``.

    The loop of the copy also ends when ``finished`` says so. The copy has the original's globals,
    defaults, closure, file name, line numbers and ``__future__`` imports. ``function`` itself is
    not changed.

    Args:
        function: the function with the loop.
        term: see `AddTerms`.
        finished: see `Finished`.
        labels: the function's variable that ``term`` also takes; see
            `sadr_plugin.EditPoint.labels`.

    Raises:
        UnsupportedLoopError: the loop does not have the required form. The message names the
            function and what was not found.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    if hasattr(function, "__wrapped__"):
        raise UnsupportedLoopError(_decorated(name))
    key = function.__code__, function.__code__.co_filename, function.__qualname__, labels
    if key not in _rewritten:
        _rewritten[key] = _rewritten_code(function, name, labels)
    code = _rewritten[key]
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells[_TERM] = CellType(term)
    cells[_FINISHED] = CellType(finished)
    copied = FunctionType(
        code,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(cells[name] for name in code.co_freevars),
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    copied.__qualname__ = function.__qualname__
    copied.__module__ = function.__module__
    return copied


_rewritten: dict[tuple[CodeType, str, str, str | None], CodeType] = {}
"""The codes of the copies, by what they are made from. A reloader may change a function's code."""


def _rewritten_code(function: FunctionType, name: str, labels: str | None) -> CodeType:
    """Return the code of the copy."""
    definition = _definition(function, name)
    insert_term(definition, name, labels)
    return _compiled(definition, function)


def _compiled(definition: ast.FunctionDef, function: FunctionType) -> CodeType:
    """Compile the ``def`` of the copy as if it stood in the place of ``function``."""
    # Defaults and annotations belong to the function object. To evaluate them again could fail.
    definition.decorator_list = []
    definition.returns = None
    arguments = definition.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        argument.annotation = None
    for extra in (arguments.vararg, arguments.kwarg):
        if extra is not None:
            extra.annotation = None
    # An outer function whose parameters are the free variables makes the compiler create closures.
    # A class around the method makes it mangle names such as `self.__x`.
    free = [*function.__code__.co_freevars, _TERM, _FINISHED]
    shell = ast.parse(f"def {_SHELL}({', '.join(free)}): pass").body[0]
    assert isinstance(shell, ast.FunctionDef)
    *_, owner = ["<locals>", *function.__qualname__.split(".")[:-1]]
    outermost = definition.name if owner == "<locals>" else owner
    if outermost not in free:  # a function that names itself means the toolkit's global
        shell.body = ast.parse(f"global {outermost}").body
    if owner == "<locals>":
        shell.body.append(definition)
    else:
        (holder,) = ast.parse(f"class {owner}: pass").body
        assert isinstance(holder, ast.ClassDef)
        holder.body = [definition]
        shell.body.append(holder)
    module = ast.fix_missing_locations(ast.Module(body=[shell], type_ignores=[]))
    code = function.__code__
    flags = code.co_flags & _FUTURE
    compiled = compile(module, code.co_filename, "exec", flags=flags, dont_inherit=True)
    found = _nested(compiled, _SHELL)
    if owner != "<locals>":
        found = _nested(found, owner)
    return _nested(found, definition.name)


def _definition(function: FunctionType, name: str) -> ast.FunctionDef:
    """Return the ``def`` from which a function was compiled, with the line numbers of its file.

    The file may have changed elsewhere since then, so the ``def`` may be in other lines.

    Raises:
        UnsupportedLoopError: the file cannot be read, or no longer has this ``def``.
    """
    code = function.__code__
    file, flags = code.co_filename, code.co_flags & _FUTURE
    try:
        tree = ast.parse(_source(file, function.__globals__))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the toolkit's warnings were shown at its import
            now = compile(tree, file, "exec", flags=flags, dont_inherit=True)
    except (OSError, SyntaxError, ValueError) as error:
        raise UnsupportedLoopError(
            f"{name}: its source cannot be read, so the loss term cannot be put in"
        ) from error
    there = {found.co_firstlineno for found in _codes_in(now) if _same(code, found)}
    nodes = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name
    ]
    found = [node for node in nodes if _first_line(node) in there]
    found = found or [node for node in nodes if _same(code, _code_alone(node, file, flags))]
    if found:
        return min(found, key=lambda node: abs(_first_line(node) - code.co_firstlineno))
    if there:
        raise UnsupportedLoopError(f"{name}: expected a plain `def`, its file holds none there")
    raise UnsupportedLoopError(
        f"{name}: the code that was imported is not what {file} says now, so the loss term cannot "
        "be put in. The file was changed since its import, or an import hook rewrites code; reload "
        "the modules that hold the function, or start the process anew, without the hook"
    )


def _source(file: str, names: dict[str, Any]) -> str:
    """Return the text of a source file as it is now.

    Args:
        file: its name, as a code object has it.
        names: the globals of its module. They help if it is no file: a cell of a notebook, or in an
            archive.

    Raises:
        OSError: there is no such text.
    """
    try:
        with tokenize.open(file) as opened:
            return opened.read()
    except OSError:
        lines = linecache.getlines(file, names)
        if not lines:
            raise
        return "".join(lines)


def _first_line(node: ast.FunctionDef) -> int:
    """Return the line at which the code of a ``def`` begins: that of its first decorator."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _code_alone(node: ast.FunctionDef, file: str, flags: int) -> CodeType:
    """Compile a ``def`` alone, as IPython's autoreload does with one that was changed."""
    source = textwrap.dedent(ast.unparse(node))
    compiled = compile(source, file, "exec", flags=flags, dont_inherit=True)
    return _nested(compiled, node.name)


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes_in(constant)


_COMPARED = (
    "co_name",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
    "co_code",
    "co_names",
    "co_varnames",
    "co_freevars",
    "co_cellvars",
)


def _same(one: Any, other: Any) -> bool:
    """Whether two code objects, or constants in them, come from the same source.

    The lines in which it stands do not count.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, CodeType):
        alike = all(getattr(one, name) == getattr(other, name) for name in _COMPARED)
        return alike and _same(one.co_consts, other.co_consts)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, (float, complex)):
        return repr(one) == repr(other)  # 0.0 is not -0.0
    return bool(one == other)


def _decorated(name: str) -> str:
    return (
        f"{name}: is decorated, and what its decorator does cannot be kept; SADR needs the plain "
        "function, under a name of its own"
    )


def _nested(code: CodeType, name: str) -> CodeType:
    return next(
        constant
        for constant in code.co_consts
        if isinstance(constant, CodeType) and constant.co_name == name
    )


def insert_term(definition: ast.stmt, name: str, labels: str | None = None) -> None:
    """Insert the loss term and the stopping check into a function definition.

    ``loss = term(loss)`` goes after the last assignment to the name that is backpropagated.
    ``if finished(): break`` goes before the backpropagation. The break leaves the innermost loop,
    which is an editor's only one.

    A step is the innermost block that contains both ``X.backward()``, as a statement in the body of
    a loop, and an earlier assignment to ``X`` in the same body.

    Args:
        definition: the function; it is changed in place.
        name: the function's name, for errors.
        labels: a variable that ``term`` also takes; None for none.

    Raises:
        UnsupportedLoopError: there is not exactly one such step, the function has decorators or
            type parameters, or the variable ``labels`` does not exist.
    """
    if not isinstance(definition, ast.FunctionDef):
        raise UnsupportedLoopError(f"{name}: expected a plain `def`")
    if getattr(definition, "type_params", None):
        raise UnsupportedLoopError(f"{name}: has type parameters; SADR needs a function without")
    if any(ast.unparse(decorator) != "staticmethod" for decorator in definition.decorator_list):
        raise UnsupportedLoopError(_decorated(name))
    if labels is not None and labels not in _own_names(definition):
        raise UnsupportedLoopError(
            f"{name}: looked for a variable `{labels}` with the target's tokens, found none"
        )
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
    given = target if labels is None else f"{target}, {labels}"
    _insert(body, last + 1, f"{target} = {_TERM}({given})", body[last])


def _insert(body: list[ast.stmt], index: int, code: str, place: ast.stmt) -> None:
    """Insert one statement with the line number of ``place``."""
    statement = ast.parse(code).body[0]
    for node in ast.walk(statement):
        ast.copy_location(node, place)
    body.insert(index, statement)


def _loop_bodies(definition: ast.FunctionDef) -> list[list[ast.stmt]]:
    """Return the bodies of the function's own loops, and of the blocks inside them."""
    bodies: list[list[ast.stmt]] = []

    def visit(statements: list[ast.stmt], in_loop: bool) -> None:
        if in_loop:
            bodies.append(statements)
        for statement in statements:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                continue
            for field in ("body", "orelse", "finalbody"):
                # The `else` of a loop runs once, after the loop.
                enters = field == "body" and isinstance(statement, (ast.For, ast.While))
                inner = getattr(statement, field, None)
                if isinstance(inner, list) and inner:
                    visit(inner, in_loop or enters)

    visit(definition.body, in_loop=False)
    return bodies


def _backpropagated(statement: ast.stmt) -> str | None:
    """Return ``X`` if the statement is ``X.backward(…)``, otherwise None."""
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return None
    called = statement.value.func
    if not isinstance(called, ast.Attribute) or called.attr != "backward":
        return None
    return called.value.id if isinstance(called.value, ast.Name) else None


def _own_names(definition: ast.FunctionDef) -> set[str]:
    """Return the names that a function binds in its own scope, including its arguments."""
    taken = definition.args
    names = {argument.arg for argument in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)}
    scopes = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    inner = (*scopes, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    waiting: list[ast.AST] = list(definition.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if not isinstance(node, inner):
            waiting.extend(ast.iter_child_nodes(node))
    return names


def _stores(statement: ast.stmt, name: str) -> bool:
    """Whether the statement binds ``name``, at any depth."""
    return any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
        for node in ast.walk(statement)
    )


def _may_be_followed(statement: ast.stmt, name: str) -> bool:
    """Whether nothing uses the value that ``statement`` gives ``name`` before the statement ends.

    This is true for an assignment, and for a ``with`` block (autocast) that ends with one.
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
