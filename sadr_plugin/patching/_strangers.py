"""Check whether a module with a common name belongs to the declared toolkit.

Research code has top-level packages such as ``rome`` and ``util``. Other projects may use the same
names.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Container, Sequence
from types import FunctionType, ModuleType

from .._signatures import signature_of
from ..adapter import EditPoint
from ._names import Name


def is_declared_one(point: EditPoint, just_now: ModuleType | None = None) -> bool:
    """Whether the imported module fits a declaration with ``parameters``.

    It is False while the module is not imported.

    Args:
        point: the declaration.
        just_now: a module whose import is known to be complete, even if its spec says otherwise.
    """
    function = Name.parse(point.function).imported(just_now)
    hparams = Name.parse(point.hparams).imported(just_now)
    if not isinstance(function, FunctionType) or not isinstance(hparams, type):
        return False
    taken = list(signature_of(function).parameters)
    is_dataclass = dataclasses.is_dataclass(hparams)
    fields = [field.name for field in dataclasses.fields(hparams)] if is_dataclass else []
    return _fits(point, taken, fields)


def is_written_as_declared(
    point: EditPoint, function: ast.FunctionDef, hparams: ast.ClassDef
) -> bool:
    """Whether definitions in source files fit a declaration with ``parameters``."""
    its = function.args
    arguments = (*its.posonlyargs, *its.args, its.vararg, *its.kwonlyargs, its.kwarg)
    taken = [argument.arg for argument in arguments if argument is not None]
    fields = [
        statement.target.id
        for statement in hparams.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    ]
    return _fits(point, taken, fields)


def keeps_no_files(point: EditPoint, takes: Container[str]) -> bool:
    """Whether a declared cache function, with these parameters, has no cache argument any more."""
    return point.parameters is not None and point.cache_argument not in takes


def _fits(point: EditPoint, taken: Sequence[str], fields: Sequence[str]) -> bool:
    return list(taken) == list(point.parameters or ()) and (
        point.steps_attribute is None or point.steps_attribute in fields
    )
