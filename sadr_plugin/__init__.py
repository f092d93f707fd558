"""SADR, Selective Attention Drift Restriction, for knowledge editors.

Call ``import sadr_plugin; sadr_plugin.enable()`` and put ``sadr: true`` in the hparams file.

Every process of an environment with the plugin imports this module at start-up. The module
therefore imports nothing until one of its names is used.
"""

TYPE_CHECKING = False  # as in typing; importing typing would cost each start-up 10 ms
if TYPE_CHECKING:
    from .adapter import Edit, EditorOptions, EditPoint, Findings, HparamsSummary, Prompt
    from .config import SadrConfig
    from .errors import SadrError
    from .events import Report, Step
    from .hookspecs import hookimpl
    from .method._probe import DriftProbe
    from .method._running import LossTerm, RunningEdit
    from .patching._attaching import attached, disable, enable, enabled
    from .plugins import last_report, plugin_manager, reports

__all__ = [
    "DriftProbe",
    "Edit",
    "EditPoint",
    "EditorOptions",
    "Findings",
    "HparamsSummary",
    "LossTerm",
    "Prompt",
    "Report",
    "RunningEdit",
    "SadrConfig",
    "SadrError",
    "Step",
    "attached",
    "disable",
    "enable",
    "enabled",
    "hookimpl",
    "last_report",
    "plugin_manager",
    "reports",
]

_HOME = {
    "DriftProbe": "method._probe",
    "Edit": "adapter",
    "EditPoint": "adapter",
    "EditorOptions": "adapter",
    "Findings": "adapter",
    "HparamsSummary": "adapter",
    "LossTerm": "method._running",
    "Prompt": "adapter",
    "Report": "events",
    "RunningEdit": "method._running",
    "SadrConfig": "config",
    "SadrError": "errors",
    "Step": "events",
    "attached": "patching._attaching",
    "disable": "patching._attaching",
    "enable": "patching._attaching",
    "enabled": "patching._attaching",
    "hookimpl": "hookspecs",
    "last_report": "plugins",
    "plugin_manager": "plugins",
    "reports": "plugins",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
