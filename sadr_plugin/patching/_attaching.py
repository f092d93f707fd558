"""Attach editors while SADR is enabled: `enable`, `disable`, `enabled`."""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Iterator
from types import ModuleType

from ..adapter import EditPoint
from ..plugins import edit_points, load_again, plugin_manager, when_loaded
from ._flag import Flag
from ._imports import ImportWatch
from ._toolkits import Toolkits

_lock = threading.RLock()
"""Whoever takes it has made the plugin manager before, whose lock comes first."""
_enabled = False
_blocks = 0
_flags: dict[int, weakref.ref[Flag]] = {}
_settling = False
_unsettled: list[ModuleType | None] = []


def enable() -> None:
    """Attach every editor that the installed adapters declare.

    An editor is attached now, or when its toolkit is imported, and again when the toolkit is
    reloaded. Edits whose hparams do not ask for SADR do not change. The function may be called any
    number of times, before or after the import of a toolkit.
    """
    global _enabled
    plugin_manager()
    load_again()
    with _lock:
        _enabled = True
        _settle()


def disable() -> None:
    """Restore every toolkit's own functions and classes.

    A running edit continues as it began. Inside a block of `enabled`, this takes effect when the
    block ends. As long as hparams exist that ask for SADR, the toolkits refuse them: an edit with
    them would be a plain edit without a word. The function may be called any number of times.
    """
    global _enabled
    with _lock:
        _enabled = False
        if not _active():
            _settle()


@contextlib.contextmanager
def enabled() -> Iterator[None]:
    """Enable SADR for the length of a ``with`` block, in all threads.

    Blocks may overlap. When the last one ends, the last call of `enable` or `disable` is in force
    again.
    """
    global _blocks
    with _lock:
        _blocks += 1
    try:
        plugin_manager()
        with _lock:
            _settle()
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _active():
                _settle()


def refresh() -> None:
    """Attach the editors of adapters that were loaded after SADR was enabled."""
    if not _needed():
        return
    plugin_manager()
    with _lock:
        _settle()


def attached() -> list[EditPoint]:
    """Return the editors whose edits have SADR now if their hparams ask for it.

    SADR is enabled, their toolkits are imported, and these have the functions that the adapters
    declare.
    """
    points = edit_points()
    with _lock:
        return [point for point in points if _toolkits.is_attached(point)]


def keep_watch(flag: Flag) -> None:
    """Have all toolkits refuse hparams with a flag where SADR is not enabled, until it is gone."""
    key = id(flag)
    plugin_manager()
    with _lock:
        was_needed = _needed()
        _flags[key] = weakref.ref(flag, lambda _: _forget(key))
        if not was_needed:
            _settle()


def _forget(key: int) -> None:
    _flags.pop(key, None)
    # A flag may be gone at any moment, in any thread: one that others wait for must not wait long.
    if not _needed() and not sys.is_finalizing() and _lock.acquire(timeout=1):
        try:
            _settle()
        finally:
            _lock.release()


def _active() -> bool:
    return _enabled or _blocks > 0


def _needed() -> bool:
    """Whether the toolkits have to be attached: to run edits with SADR, or to refuse them."""
    return _active() or bool(_flags)


def _settle(just_now: ModuleType | None = None) -> None:
    """Attach the toolkits or detach them, as is needed now. The caller has the lock.

    Args:
        just_now: a module whose code has just run. If it is None, the modules to watch are looked
            up, too.
    """
    global _settling
    _unsettled.append(just_now)
    if _settling:
        return  # within itself: a plugin has called for it, or a flag is gone
    _settling = True
    try:
        while _unsettled:
            module = _unsettled.pop()
            if not _needed():
                _watch.stop()
                _toolkits.detach()
                continue
            if module is None:
                _watch.start(_toolkits.modules())
            _toolkits.attach(module)
    finally:
        _settling = False
        _unsettled.clear()


def _loaded(module: ModuleType) -> None:
    if not _needed():
        return
    plugin_manager()
    with _lock:
        _settle(module)


def _obstacle(hparams: type) -> str | None:
    plugin_manager()
    with _lock:
        if _active() and _toolkits.have_lost(hparams):
            _settle()
        return _toolkits.obstacle(hparams)


when_loaded.append(refresh)
_watch = ImportWatch(_loaded)
_toolkits = Toolkits(_active, _obstacle)
