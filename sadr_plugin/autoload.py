"""Enabling SADR with no line of code: imported by ``sadr_autoload.pth`` at start-up.

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
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        import wrapt

        wrapt.register_post_import_hook(_enable, "torch")
        return find_spec(name)  # again, past wrapt's finder this time


def _enable(_torch: object) -> None:
    # A broken adapter must not stop anyone from importing torch.
    try:
        from .attachment import enable

        enable()
    except Exception as error:
        import warnings

        warnings.warn(f"SADR could not be enabled at start-up: {error!r}", stacklevel=2)


if os.environ.get("SADR_AUTOLOAD") != "0" and "torch" not in sys.modules:
    sys.meta_path.insert(0, _TorchWatch())
