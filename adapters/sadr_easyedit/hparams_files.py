"""EasyEdit's hparams files, as plain data, as a summary without EasyEdit, or as its objects."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sadr_plugin import EditPoint
from sadr_plugin.errors import ConfigError

from .declarations import EDIT_POINTS
from .hparams_values import key_faults
from .toolkit_source import ToolkitSource

ONE_AT_A_TIME = ("ROME", "R-ROME")
"""Editors that use the first of several requests and ignore the others."""

NO_STATISTICS = (
    "mom2_adjustment: false: the edit looks at no layer statistics, and leaks into whatever "
    "resembles the subject; set it to true, and compute them with sadr stats"
)

VECTOR_AT_FIRST = ("MEMIT-FE",)
"""The editors that find their vector at the first of the edited layers, not at the last."""

NEEDED = ("model_name", "layers", "layer_module_tmp")
"""The keys without which nothing can be said of a file."""


def read_yaml(file: Path) -> Any:
    """Return the content of a YAML file as plain data. A tag for another object is an error.

    Raises:
        ConfigError: the file cannot be read. The message names the file.
    """
    import yaml

    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {file}") from None
    except RecursionError:
        raise ConfigError(f"{file}: cannot be read as YAML: it is nested too deeply") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: an impossible date
        raise ConfigError(f"{file}: cannot be read as YAML: {error}") from None


def is_easyedits(file: Path) -> bool:
    """Whether a file names one of EasyEdit's editors to which SADR attaches.

    Raises:
        ConfigError: the file cannot be read.
    """
    if file.suffix not in (".yaml", ".yml"):
        return False
    content = read_yaml(file)
    return isinstance(content, dict) and content.get("alg_name") in _editors()


def load_hparams(file: Path) -> Any:
    """Return the hparams object of the editor that the file's ``alg_name`` names.

    The editor may be any to which SADR attaches. ``easyeditor`` is imported.

    Raises:
        ConfigError: the file cannot be read or names no such editor, or the editor's class refuses
            it. The message names the file.
    """
    expect_suffix(file)
    content = read_yaml(file)
    name = content.get("alg_name") if isinstance(content, dict) else None
    point = expect_editor(file, name)
    try:
        hparams = pkgutil.resolve_name(point.hparams)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "easyeditor":
            raise ConfigError(f"{file}: the installed EasyEdit has no {name} ({error})") from None
        raise ConfigError(f"{file}: EasyEdit cannot be imported here: {error}") from None
    except ImportError as error:  # of a name that a release of a package lacks
        raise ConfigError(f"{file}: EasyEdit cannot be imported here: {error}") from None
    try:
        return hparams.from_hparams(str(file))
    except TypeError as error:
        others = [other for other in EDIT_POINTS if other.editor != name]
        faults = key_faults(ToolkitSource(point), content, others)
        raise ConfigError(f"{file}: {'; '.join(faults) or error}") from None


def expect_editor(file: Path, name: object) -> EditPoint:
    """Return the declaration of the editor that a file's ``alg_name`` names.

    Raises:
        ConfigError: SADR attaches to no such editor.
    """
    for point in EDIT_POINTS:
        if point.editor == name:
            return point
    close = difflib.get_close_matches(str(name).upper(), [n.upper() for n in _editors()], 1)
    meant = next((n for n in _editors() if close == [n.upper()]), None)
    raise ConfigError(
        f"{file}: alg_name is {name!r}, not one of {', '.join(_editors())}"
        + (f"; did you mean {meant}?" if meant else "")
    )


def _editors() -> list[str]:
    return list(dict.fromkeys(point.editor for point in EDIT_POINTS))


def expect_suffix(file: Path) -> None:
    """Check that EasyEdit itself would read the file.

    Raises:
        ConfigError: its name has another ending.
    """
    if file.suffix != ".yaml":
        raise ConfigError(f"{file}: EasyEdit reads hparams files whose names end in .yaml")


def rewritten_modules(hparams: Any) -> list[str]:
    """Return the names of the modules that an editor rewrites. PMET rewrites two in each layer."""
    templates = getattr(hparams, "rewrite_module_tmps", None) or [hparams.rewrite_module_tmp]
    return [template.format(layer) for layer in hparams.layers for template in templates]


def needs_statistics(hparams: Any) -> bool:
    """Whether an editor needs layer statistics. ROME and R-ROME can also work without them."""
    return bool(hparams.alg_name not in ONE_AT_A_TIME or hparams.mom2_adjustment)


def vector_layers(editor: str, layers: Sequence[int]) -> list[int]:
    """Return the layers at which an editor finds a vector, in its order.

    Attention after the last of them can drift. ROME makes one edit in each layer.

    Args:
        editor: the editor's name.
        layers: the edited layers.
    """
    if editor in ONE_AT_A_TIME:
        return sorted(layers)
    return [min(layers) if editor in VECTOR_AT_FIRST else layers[-1]]
