"""Names in a toolkit, ``"package.module:name"``, in imported modules or in source files."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ._imports import is_importing

_Definition = TypeVar("_Definition", ast.FunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Name:
    """The name of a function or class of a toolkit."""

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
        """Return the module. None until its import is complete.

        Args:
            just_now: a module whose import is known to be complete, even if its spec says
                otherwise.
        """
        module = sys.modules.get(self.module)
        if module is not just_now and is_importing(module):
            return None
        return module

    def imported(self, just_now: ModuleType | None = None) -> Any:
        """Return the object with this name; None if it or its module does not exist yet."""
        return getattr(self.home(just_now), self.name, None)

    def exists(self) -> bool:
        """Whether the toolkit's files include this module."""
        return bool(self._files())

    def definition(self, kind: type[_Definition]) -> _Definition:
        """Return the last definition of this name in the toolkit's files, without importing them.

        Raises:
            LookupError: there is no such file or definition.
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
    """Yield the statements of a module, including those in ``if``, ``try`` and ``with`` blocks."""
    for statement in statements:
        yield statement
        if isinstance(statement, (ast.If, ast.Try, ast.With)):
            for field in ("body", "orelse", "finalbody"):
                yield from _top_level(getattr(statement, field, []))
            for handler in getattr(statement, "handlers", []):
                yield from _top_level(handler.body)
