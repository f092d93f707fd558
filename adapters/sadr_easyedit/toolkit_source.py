"""What a toolkit's source says of its hparams. Nothing is imported.

EasyEdit, FastEdit and the research code have the same form: a dataclass of hparams for each editor,
and a package of modules that read it as ``hparams.NAME``.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sadr_plugin import EditPoint
from sadr_plugin._version import places_of
from sadr_plugin.patching._names import Name
from sadr_plugin.patching._strangers import is_written_as_declared

ROOT = "HyperParams"
"""The name of the base class without fields that all of these toolkits have."""


@dataclass(frozen=True)
class Field:
    """A field of an hparams class.

    Attributes:
        kind: the annotation as it is written, such as ``"List[int]"``.
        is_needed: whether it has no default.
    """

    kind: str
    is_needed: bool


class ToolkitSource:
    """The source of one editor.

    Args:
        point: the editor's declaration.
    """

    def __init__(self, point: EditPoint) -> None:
        self._point = point

    @cached_property
    def fields(self) -> dict[str, Field] | None:
        """The fields of the hparams class. None if they cannot be told from its source."""
        target = Name.parse(self._point.hparams)
        found: dict[str, Field] = {}
        try:
            classes = list(_with_bases(target))
        except (LookupError, SyntaxError, ValueError):
            return None
        for statement in (s for definition in reversed(classes) for s in definition.body):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                kind = ast.unparse(statement.annotation)
                found[statement.target.id] = Field(kind, statement.value is None)
        return found

    @property
    def hparams_class(self) -> str:
        """The name of the hparams class."""
        return Name.parse(self._point.hparams).name

    def is_the_declared_one(self) -> bool:
        """Whether the toolkit is here, and its code has the declared form."""
        try:
            function = Name.parse(self._point.function).definition(ast.FunctionDef)
            hparams = Name.parse(self._point.hparams).definition(ast.ClassDef)
        except (LookupError, SyntaxError, ValueError):
            return False
        is_sure = self._point.parameters is None
        return is_sure or is_written_as_declared(self._point, function, hparams)

    def reads(self, key: str) -> bool:
        """Whether the editor's code reads this key."""
        return key in self._read

    @cached_property
    def _read(self) -> set[str]:
        return {
            node.attr
            for node in self._nodes
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Load)
            and isinstance(node.value, ast.Name)
            and node.value.id == self._point.hparams_argument
        }

    @cached_property
    def names(self) -> set[str]:
        """All names and attributes in the editor's code."""
        named = {node.id for node in self._nodes if isinstance(node, ast.Name)}
        return named | {node.attr for node in self._nodes if isinstance(node, ast.Attribute)}

    def calls_of(self, name: str) -> list[str]:
        """Return the calls of a function in the editor's code, as texts."""
        called = [node for node in self._nodes if isinstance(node, ast.Call)]
        return [
            ast.unparse(call)
            for call in called
            if ast.unparse(call.func).rpartition(".")[2] == name
        ]

    def tested_for(self, name: str) -> list[str]:
        """Return the texts that ``if`` tests look for before the code assigns to ``name``."""
        tests = [
            node.test
            for node in self._nodes
            if isinstance(node, ast.If) and name in map(ast.unparse, _targets(node.body))
        ]
        compared = [n.left for t in tests for n in ast.walk(t) if isinstance(n, ast.Compare)]
        return [
            left.value
            for left in compared
            if isinstance(left, ast.Constant) and isinstance(left.value, str)
        ]

    @cached_property
    def _nodes(self) -> list[ast.AST]:
        package = self._point.function.partition(":")[0].rpartition(".")[0]
        root, *inner = package.split(".")
        found: list[ast.AST] = []
        for place in places_of(root):
            for file in sorted(Path(place, *inner).glob("*.py")):
                with contextlib.suppress(SyntaxError, ValueError):  # `sadr editors` says it
                    found += ast.walk(ast.parse(file.read_bytes()))
        return found


def _targets(statements: list[ast.stmt]) -> Iterator[ast.expr]:
    for statement in statements:
        if isinstance(statement, ast.Assign):
            yield from statement.targets


def _with_bases(target: Name) -> Iterator[ast.ClassDef]:
    """Yield a class's definition and those of its bases in the same module.

    Raises:
        LookupError: a base is elsewhere, so that not all fields are known.
    """
    definition = target.definition(ast.ClassDef)
    yield definition
    for base in map(ast.unparse, definition.bases):
        if base.rpartition(".")[2] not in (ROOT, "object"):
            yield from _with_bases(Name(target.module, base))
