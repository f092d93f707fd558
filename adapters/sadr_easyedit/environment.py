"""EasyEdit's text editors, without the vision packages that its full import needs."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from sadr_plugin.errors import SadrError

_BARE = ("easyeditor", "easyeditor.models", "easyeditor.editors", "easyeditor.trainer")


def import_text_only() -> None:
    """Make ``easyeditor.models.<method>`` importable without EasyEdit's other dependencies.

    The function does nothing if EasyEdit is already imported. Later imports through these packages
    give EasyEdit's own code. Only the star imports in their ``__init__`` are left out, for the rest
    of the process.

    Raises:
        SadrError: EasyEdit is not installed.
    """
    if "easyeditor" in sys.modules:
        return
    found = importlib.util.find_spec("easyeditor")
    if found is None or not found.submodule_search_locations:
        raise SadrError(
            "EasyEdit is not installed: pip install --no-deps easyeditor, or put a checkout of "
            "its main branch on PYTHONPATH"
        )
    root = list(found.submodule_search_locations)
    for name in _BARE:
        inner = name.split(".")[1:]
        spec = ModuleSpec(name, loader=None, is_package=True)
        spec.submodule_search_locations = ["/".join([path, *inner]) for path in root]
        package = ModuleType(name)
        package.__spec__ = spec
        package.__path__ = spec.submodule_search_locations
        sys.modules[name] = package
