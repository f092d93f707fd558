"""Be told of every import and reload of some modules."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Loaded = Callable[[ModuleType], None]
"""A function that is called with a module whose code has just run."""


class ImportWatch:
    """A finder that calls a function when the code of a watched module has run.

    That is at its first import, at each reload, and when it is imported once more. The modules are
    found by the other finders.

    Args:
        loaded: see `Loaded`. It is also called after a reload that failed, because what the reload
            replaced until then stays replaced.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.names: frozenset[str] = frozenset()
        self._loaded = loaded
        self._searches: set[tuple[int, str]] = set()

    def start(self, names: Iterable[str]) -> None:
        """Watch these modules, and no others.

        The import of one may be under way: a toolkit's module that is the first to import torch
        enables SADR while its own import is not complete.
        """
        self.names = frozenset(names)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        for name in self.names:
            module = sys.modules.get(name)
            spec = getattr(module, "__spec__", None)
            if module is not None and is_importing(module) and type(spec) is ModuleSpec:
                _call_at_end(spec, self._loaded, module)

    def stop(self) -> None:
        """Watch nothing any more."""
        self.names = frozenset()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find, with a loader that also calls ``loaded``."""
        search = threading.get_ident(), name
        if name not in self.names or search in self._searches:
            return None
        self._searches.add(search)  # another finder may look the name up from the start
        try:
            spec = self._found_by_others(name, path, target)
        finally:
            self._searches.discard(search)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            loader: Any = _TellingLoader(spec.loader, self._loaded, target is not None)
            spec.loader = loader
        return spec

    def _found_by_others(self, *search: Any) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find_spec = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find_spec is None else find_spec(*search)
            if spec is not None:
                return spec
        return None


class _TellingLoader:
    """Is in the place of a module's loader until the module's code runs."""

    def __init__(self, loader: Any, loaded: Loaded, is_reload: bool) -> None:
        self._loader = loader
        self._loaded = loaded
        self._is_reload = is_reload

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The module itself sees its own loader.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        try:
            self._loader.exec_module(module)
        except BaseException:
            if self._is_reload:
                self._loaded(module)
            raise
        self._loaded(module)


def is_importing(module: ModuleType | None) -> bool:
    """Whether the first import of a module has begun and is not complete."""
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


_AT_END = "_sadr_at_end"


def _call_at_end(spec: ModuleSpec, loaded: Loaded, module: ModuleType) -> None:
    """Call ``loaded`` with a module when its import, which is under way, is complete."""
    # Python's import system sets `_initializing` to False at the end, and calls nothing.
    vars(spec)[_AT_END] = lambda: loaded(module)
    spec.__class__ = _ImportedSpec


class _ImportedSpec(ModuleSpec):
    """The spec of a module whose import has begun. It becomes an ordinary one at the end."""

    @property
    def _initializing(self) -> bool:
        found: bool = vars(self)["_initializing"]
        return found

    @_initializing.setter
    def _initializing(self, value: Any) -> None:
        vars(self)["_initializing"] = value
        if not value:
            at_end = vars(self).pop(_AT_END)
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            if self.name in sys.modules:  # not after an error
                at_end()
