"""Call a function when the import of a module is complete, even if it has already begun."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import wrapt

Notify = Callable[[ModuleType], None]


def when_imported(name: str, notify: Notify) -> bool:
    """Call ``notify`` with a module when its import is complete.

    The import may be under way: a toolkit's module that is the first to import torch enables SADR
    while its own import is not complete.

    Returns:
        Whether there is anything to wait for. False if the module has been imported.
    """
    module = sys.modules.get(name)
    if module is None:
        wrapt.register_post_import_hook(notify, name)
        return True
    spec = getattr(module, "__spec__", None)
    if not is_importing(module) or type(spec) is not ModuleSpec:
        return False
    # Python's import system sets `_initializing` to False at the end, and calls nothing.
    vars(spec)[_NOTIFY] = lambda: notify(module)
    spec.__class__ = _ImportedSpec
    return True


def is_importing(module: ModuleType | None) -> bool:
    """Whether the import of a module has begun and is not complete."""
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


_NOTIFY = "_sadr_notify"


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
            notify = vars(self).pop(_NOTIFY)
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            if self.name in sys.modules:  # not after an error
                notify()
