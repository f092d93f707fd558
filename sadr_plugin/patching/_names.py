"""Names in a toolkit, ``"package.module:name"``: as imported, or as they stand in its files."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

_Definition = TypeVar("_Definition", ast.FunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Name:
    """A function or class of a toolkit."""

    module: str
    name: str

    @classmethod
    def parse(cls, target: str) -> Name:
        """Read ``"package.module:name"``."""
        module, _, name = target.partition(":")
        return cls(module, name)

    @property
    def toolkit(self) -> str:
        """The top-level package."""
        return self.module.partition(".")[0]

    def home(self, just_now: ModuleType | None = None) -> ModuleType | None:
        """The module, None until its import is finished.

        Args:
            just_now: a module that is known to be finished, though it may not say so yet.
        """
        module = sys.modules.get(self.module)
        spec = getattr(module, "__spec__", None)
        if module is not just_now and getattr(spec, "_initializing", False):
            return None
        return module

    def imported(self, just_now: ModuleType | None = None) -> Any:
        """What has the name; None if there is nothing, or the module is not imported."""
        return getattr(self.home(just_now), self.name, None)

    def exists(self) -> bool:
        """Whether the toolkit's files have such a module."""
        return bool(self._files())

    def definition(self, kind: type[_Definition]) -> _Definition:
        """The definition in the toolkit's files, which are not imported; the last one counts.

        Raises `LookupError` if there is no such file or definition.
        """
        found = None
        for file in self._files():
            for statement in _top_level(ast.parse(file.read_bytes()).body):
                if isinstance(statement, kind) and statement.name == self.name:
                    found = statement
        if found is None:
            raise LookupError(f"{self.module}:{self.name}")
        return found

    def _files(self) -> list[Path]:
        root, *inner = self.module.split(".")
        spec = importlib.util.find_spec(root)
        if spec is None:
            return []
        if spec.submodule_search_locations is None:  # a toolkit of one file
            return [Path(spec.origin)] if spec.origin and not inner else []
        places = [Path(place, *inner) for place in spec.submodule_search_locations]
        files = [file for p in places for file in (p / "__init__.py", p.with_suffix(".py"))]
        return [file for file in files if file.is_file()][:1]


def _top_level(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those in its ``if`` and ``try`` blocks too."""
    for statement in statements:
        yield statement
        if isinstance(statement, (ast.If, ast.Try, ast.With)):
            for field in ("body", "orelse", "finalbody"):
                yield from _top_level(getattr(statement, field, []))
            for handler in getattr(statement, "handlers", []):
                yield from _top_level(handler.body)
