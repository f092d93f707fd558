"""Enable SADR at interpreter start-up, without a line of user code.

Python calls ``start`` through ``sadr_autoload.pth`` up to version 3.17, and through
``sadr_autoload.start`` from version 3.15 on (PEP 829). Every process of the environment runs this
module, so the module does very little. It waits until torch is imported, because every toolkit
needs torch. Then it enables SADR. ``SADR_AUTOLOAD=0`` switches this off.
"""

import os
import sys

TYPE_CHECKING = False  # as in typing; importing typing would cost each start-up 10 ms
if TYPE_CHECKING:
    from .patching._imports import ImportWatch


class _TorchWatch:
    """An import finder that waits for the first import of torch."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        if name != "torch" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        try:
            from .patching._imports import ImportWatch

            watch = ImportWatch(lambda _torch: _enable(watch))
            watch.start({name})
            return watch.find_spec(name, path, target)
        except Exception as error:
            _warn(error)
            return None


def _enable(watch: "ImportWatch") -> None:
    watch.stop()
    # An error in the plugin must not prevent the import of torch.
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
    """Wait for torch, then enable SADR. A second call does nothing.

    It also does nothing if ``SADR_AUTOLOAD`` is ``0`` or torch is imported already.
    """
    global _started
    if _started or os.environ.get("SADR_AUTOLOAD") == "0" or "torch" in sys.modules:
        return
    _started = True
    sys.meta_path.insert(0, _TorchWatch())
