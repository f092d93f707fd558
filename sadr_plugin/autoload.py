"""Enabling SADR with no line of code: ``start`` is called at each interpreter's start-up.

``sadr_autoload.pth`` calls it up to Python 3.17, ``sadr_autoload.start`` from 3.15 on (PEP 829).
Every process of the environment pays for this module, so it does next to nothing: it waits for
torch, which no toolkit does without, and enables SADR once torch is loaded. Set
``SADR_AUTOLOAD=0`` to have it do nothing at all.
"""

import os
import sys


class _TorchWatch:
    """Stands in front of the import system until someone looks for torch."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != "torch":
            return None
        if self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        try:
            import wrapt

            wrapt.register_post_import_hook(_enable, "torch")
        except Exception as error:
            _warn(error)
        return find_spec(name)  # again, past wrapt's finder this time


def _enable(_torch: object) -> None:
    # Whatever is wrong with the plugin must not stop anyone from importing torch.
    try:
        from .patching._attaching import enable

        enable()
    except Exception as error:
        _warn(error)


def _warn(error: Exception) -> None:
    import warnings

    warnings.warn(f"SADR could not be enabled at start-up: {error!r}", stacklevel=3)


_started = False


def start() -> None:
    """Wait for torch, then enable SADR. A second call does nothing."""
    global _started
    if _started or os.environ.get("SADR_AUTOLOAD") == "0" or "torch" in sys.modules:
        return
    _started = True
    sys.meta_path.insert(0, _TorchWatch())
