"""The plugin manager: hook specifications, built-in answers and installed adapters."""

from __future__ import annotations

import inspect
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import FunctionType
from typing import Any

import pluggy

from . import hookspecs
from .adapter import EditPoint
from .errors import AttachmentError
from .events import Report
from .hookspecs import PROJECT, hookimpl

CHOICE = "SADR_LOAD_ADAPTERS"
"""The environment variable that names the installed adapters to load, separated by commas.

If it is not set, all installed adapters are loaded.
"""

BUILT_IN = {"keep": "sadr_plugin.keep", "published": "sadr_plugin.method._published"}
"""The plugin's own plugins, by name: of those that ask to be first, the last one is.

They do not import torch, because the manager may be made before torch is imported.
"""

when_loaded: list[Callable[[], None]] = []
"""Called once all adapters are loaded, if somebody asked for the manager before."""

_lock = threading.RLock()
_manager: pluggy.PluginManager | None = None
_complete = False
_asked_while_loading = False
_loaded: dict[str, EntryPoint] = {}
_failed: dict[str, str] = {}
_again: list[EntryPoint] = []
"""Adapters that failed with an ImportError. What they import may have been half imported then."""


class _Manager(pluggy.PluginManager):
    """A plugin manager that warns of functions that have the name of a hook and not the mark."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Return the options of a marked function. `register` calls this for every attribute."""
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None and name.startswith("sadr_") and hasattr(hookspecs, name):
            found = inspect.getattr_static(plugin, name)
            if isinstance(found, (FunctionType, staticmethod, classmethod)):
                whose = getattr(plugin, "__name__", type(plugin).__qualname__)
                warnings.warn(
                    f"SADR: {name} of the plugin {whose} has the name of a hook and not the mark, "
                    "so it is not called; put @hookimpl above it, or rename it",
                    stacklevel=3,
                )
        return options


def plugin_manager() -> pluggy.PluginManager:
    """Return the one plugin manager of the process, with every installed adapter loaded.

    Adapters are found through the entry point group ``sadr_plugin``. ``SADR_LOAD_ADAPTERS=a,b``
    loads only the adapters with these names. If an adapter cannot be loaded, a warning names it and
    it is left out.

    Register your own object with ``plugin_manager().register(plugin)``.
    """
    global _manager, _complete, _asked_while_loading
    if _manager is not None and _complete:
        return _manager  # without the lock: another thread may hold it and wait for the caller's
    with _lock:
        if _manager is not None:
            # An adapter that imports torch causes a call here while the adapters are being loaded.
            _asked_while_loading = True
            return _manager
        _manager = manager = _Manager(PROJECT)
        manager.add_hookspecs(hookspecs)
        for name, module in BUILT_IN.items():
            manager.register(import_module(module), name=name)
        manager.register(LastReport(), name="last-report")
        _asked_while_loading = False
        try:
            for adapter in _chosen(sorted(entry_points(group=PROJECT))):
                _load_or_fail(manager, adapter)
        except BaseException:  # Ctrl-C: the next call begins anew
            _manager = None
            for kept in (_loaded, _failed, _again):
                kept.clear()
            raise
        _complete = True
        asked = _asked_while_loading
    if asked:
        for notify in when_loaded:
            notify()
    return manager


def load_again() -> None:
    """Try once more to load the adapters that failed with an ImportError.

    At start-up, torch is only half imported while adapters are loaded.
    """
    with _lock:
        if _manager is None:
            return
        again = list(_again)
        _again.clear()  # an adapter that imports torch causes another call here
        try:
            for adapter in again:
                try:
                    _load(_manager, adapter)
                    _failed.pop(adapter.name, None)
                except Exception as error:  # it was warned of
                    _failed[adapter.name] = f"{type(error).__name__}: {error}"
        finally:
            _again.extend(adapter for adapter in again if adapter.name not in _loaded)


def loaded_adapters() -> dict[str, EntryPoint]:
    """Return the installed adapters that were loaded, by name."""
    plugin_manager()
    return dict(_loaded)


def failed_adapters() -> dict[str, str]:
    """Return the installed adapters that could not be loaded: name to reason."""
    plugin_manager()
    return dict(_failed)


def edit_points() -> list[EditPoint]:
    """Return the editors that all plugins declare, in one list."""
    declared = plugin_manager().hook.sadr_edit_points()
    return [point for points in declared for point in points]


def editor_names() -> str:
    """Return the names of all declared editors, for messages."""
    return ", ".join(sorted({point.editor for point in edit_points()}))


def _chosen(installed: Sequence[EntryPoint]) -> list[EntryPoint]:
    choice = os.environ.get(CHOICE)
    if choice is None:
        return list(installed)
    wanted = [name.strip() for name in choice.split(",") if name.strip()]
    names = {adapter.name for adapter in installed}
    for name in wanted:
        if name not in names:
            there = ", ".join(sorted(names)) or "none"
            _fail(name, f"{CHOICE} names it, but it is not installed; installed: {there}")
    return [adapter for adapter in installed if adapter.name in wanted]


def _load_or_fail(manager: pluggy.PluginManager, adapter: EntryPoint) -> None:
    try:
        _load(manager, adapter)
    except Exception as error:
        if isinstance(error, ImportError):
            _again.append(adapter)
        _fail(adapter.name, f"{type(error).__name__}: {error}")


def _load(manager: pluggy.PluginManager, adapter: EntryPoint) -> None:
    """Load one adapter and check what it declares. An adapter that fails is not registered.

    Raises:
        AttachmentError: another adapter has the same name, or a declaration has the wrong type.
    """
    if adapter.name in _loaded:
        other = _distribution(_loaded[adapter.name])
        raise AttachmentError(f"{_distribution(adapter)} and {other} both bring one of this name")
    plugin = adapter.load()
    try:
        manager.register(plugin, name=adapter.name)
        _check_hooks(manager, plugin)
        for hook, check in (
            (manager.hook.sadr_edit_points, _check_points),
            (manager.hook.sadr_hparams_base, _check_base),
        ):
            for implementation in hook.get_hookimpls():
                wraps = implementation.hookwrapper or getattr(implementation, "wrapper", False)
                if implementation.plugin is plugin and not wraps:
                    check(implementation.function())
    except BaseException:
        if manager.is_registered(plugin):
            manager.unregister(plugin)
        raise
    _loaded[adapter.name] = adapter


def _check_hooks(manager: pluggy.PluginManager, plugin: object) -> None:
    """Refuse a misspelt hook. `check_pending` would do so for those of other plugins, too."""
    for hook in manager.get_hookcallers(plugin) or ():
        optional = all(found.optionalhook for found in hook.get_hookimpls())
        if not hook.has_spec() and not optional:
            raise AttachmentError(f"unknown hook {hook.name!r}")


def _distribution(adapter: EntryPoint) -> str:
    return "this environment" if adapter.dist is None else adapter.dist.metadata["Name"]


def _check_points(declared: object) -> None:
    points = [] if declared is None else declared
    if not isinstance(points, (list, tuple)) or not all(isinstance(p, EditPoint) for p in points):
        raise AttachmentError(f"sadr_edit_points: expected a list of EditPoint, got {declared!r}")


def _check_base(declared: object) -> None:
    if declared is not None and not isinstance(declared, str):
        raise AttachmentError(f"sadr_hparams_base: expected a class's name, got {declared!r}")


def _fail(name: str, reason: str) -> None:
    _failed[name] = reason
    warnings.warn(f"SADR: the adapter {name!r} is left out: {reason}", stacklevel=2)


class LastReport:
    """A plugin that stores the report of the last edit that ended without an exception."""

    def __init__(self) -> None:
        self.report: Report | None = None

    @hookimpl
    def sadr_edit_finished(self, report: Report) -> None:
        """Store the report."""
        self.report = report


class _Collector:
    """A plugin that collects every report in a list."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    @hookimpl
    def sadr_edit_finished(self, report: Report) -> None:
        self.reports.append(report)


def last_report() -> Report | None:
    """Return the report of the process's last edit with SADR that ended without an exception.

    Returns:
        None if there is no such edit.
    """
    found = plugin_manager().get_plugin("last-report")
    assert isinstance(found, LastReport)
    return found.report


@contextmanager
def reports() -> Iterator[list[Report]]:
    """Collect the report of each edit with SADR that ends inside a ``with`` block.

    An edit that ends with an exception has no report.

        with sadr_plugin.reports() as found:
            editor.edit(...)
        print(len(found), found[-1].steps[-1].penalty)
    """
    collector, manager = _Collector(), plugin_manager()
    manager.register(collector)
    try:
        yield collector.reports
    finally:
        manager.unregister(collector)
