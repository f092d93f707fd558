"""EasyEdit's hparams files, as plain data, as a summary without EasyEdit, or as its objects."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sadr_plugin import HparamsSummary, hookimpl
from sadr_plugin.adapter import edited_layers
from sadr_plugin.errors import ConfigError

from .declarations import EDIT_POINTS

ONE_AT_A_TIME = ("ROME", "R-ROME")
"""Editors that use the first of several requests and ignore the others."""

NO_STATISTICS = (
    "mom2_adjustment: false: the edit looks at no layer statistics, and leaks into whatever "
    "resembles the subject; set it to true, and compute them with sadr stats"
)

VECTOR_AT_FIRST = ("MEMIT-FE",)
"""The editors that find their vector at the first of the edited layers, not at the last."""


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


def load_hparams(file: Path) -> Any:
    """Return the hparams object of the editor that the file's ``alg_name`` names.

    The editor may be any to which SADR attaches.

    Raises:
        ConfigError: the file cannot be read, or names no such editor. The message names the file.
    """
    _expect_suffix(file)
    content = read_yaml(file)
    name = content.get("alg_name") if isinstance(content, dict) else None
    classes = {point.editor: point.hparams for point in EDIT_POINTS}
    if not isinstance(name, str) or name not in classes:
        raise ConfigError(f"{file}: alg_name is {name!r}, not one of {', '.join(classes)}")
    try:
        return pkgutil.resolve_name(classes[name]).from_hparams(str(file))
    except ModuleNotFoundError as error:
        raise ConfigError(f"{file}: the installed EasyEdit has no {name} ({error})") from None
    except TypeError as error:
        raise ConfigError(f"{file}: {error}") from None


def _expect_suffix(file: Path) -> None:
    if file.suffix != ".yaml":
        raise ConfigError(f"{file}: EasyEdit reads hparams files whose names end in .yaml")


@hookimpl
def sadr_read_hparams(file: Path) -> HparamsSummary | None:
    """Return what EasyEdit's YAML says, or None if ``alg_name`` names no attached editor."""
    from .loading import packaged  # it imports packages of models

    if file.suffix not in (".yaml", ".yml"):
        return None
    content = read_yaml(file)
    if not isinstance(content, dict):
        return None
    if content.get("alg_name") not in [point.editor for point in EDIT_POINTS]:
        return None
    _expect_suffix(file)
    missing = {"model_name", "layers", "layer_module_tmp"} - content.keys()
    if missing:
        raise ConfigError(f"{file}: lacks {', '.join(sorted(missing))}")
    return HparamsSummary(
        editor=content["alg_name"],
        model_name=str(content["model_name"]),
        layer=vector_layer(content["alg_name"], edited_layers(file, content["layers"])),
        layer_template=str(content["layer_module_tmp"]),
        sadr=content.get("sadr"),
        hparams=next(p.hparams for p in EDIT_POINTS if p.editor == content["alg_name"]),
        settings=content,
        remarks=_remarks(content),
        find_model=packaged(str(content["model_name"])),
    )


def _remarks(content: Mapping[str, Any]) -> list[str]:
    """Say what can be seen in the file alone. EasyEdit finds each of these during the edit."""
    import torch

    found = []
    if content["alg_name"] in ONE_AT_A_TIME and not content.get("mom2_adjustment"):
        found.append(NO_STATISTICS)
    elif "stats_dir" in content:
        folder = Path(str(content["stats_dir"]), str(content["model_name"]).rsplit("/")[-1])
        if not folder.is_dir():
            found.append(
                f"stats_dir: there is no folder {folder} with the model's layer statistics; "
                "EasyEdit would download Wikipedia to compute them, sadr stats works offline"
            )
    device, spread = content.get("device"), content.get("model_parallel")
    if type(device) is int and device >= torch.cuda.device_count() and not spread:
        found.append(f"device: {device} is no GPU of this machine; cpu takes the processor")
    return found


def vector_layer(editor: str, layers: Sequence[int]) -> int:
    """Return the layer at which an editor finds its vector. Attention after it can drift.

    Args:
        editor: the editor's name.
        layers: the edited layers.
    """
    return layers[0] if editor in VECTOR_AT_FIRST else layers[-1]
