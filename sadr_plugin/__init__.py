"""SADR, Selective Attention Drift Restriction, for the knowledge editors you already use.

``import sadr_plugin; sadr_plugin.enable()`` and put ``sadr: true`` in the hparams file. This
module imports nothing until a name is asked for: every process of an environment with the
plugin imports it at start-up.
"""

TYPE_CHECKING = False  # as typing has it; importing typing would cost each start-up 10 ms
if TYPE_CHECKING:
    from .attachment import attached, disable, enable, enabled
    from .config import SadrConfig
    from .edit import Edit, EditPoint, Report, Step
    from .errors import SadrError
    from .hookspecs import hookimpl
    from .plugins import plugin_manager
    from .positions import Prompt

__all__ = [
    "Edit",
    "EditPoint",
    "Prompt",
    "Report",
    "SadrConfig",
    "SadrError",
    "Step",
    "attached",
    "disable",
    "enable",
    "enabled",
    "hookimpl",
    "plugin_manager",
]

_HOME = {
    "Edit": "edit",
    "EditPoint": "edit",
    "Prompt": "positions",
    "Report": "edit",
    "SadrConfig": "config",
    "SadrError": "errors",
    "Step": "edit",
    "attached": "attachment",
    "disable": "attachment",
    "enable": "attachment",
    "enabled": "attachment",
    "hookimpl": "hookspecs",
    "plugin_manager": "plugins",
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
