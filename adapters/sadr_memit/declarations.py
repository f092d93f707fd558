"""The declarations of the research code's editors. Their arguments have the form of EasyEdit's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sadr_easyedit.declarations import MEMIT_GAMMA, PMET_GAMMA, ROME_GAMMA
from sadr_easyedit.declarations import read as read_as_easyedit
from sadr_plugin import Edit, EditPoint, hookimpl

PARAMETERS = ("model", "tok", "request", "hparams", "layer", "context_templates")
WITH_KEY = ("model", "tok", "request", "hparams", "layer", "left_vector", "context_templates")


def read(arguments: Mapping[str, Any]) -> Edit:
    """Read the arguments as for EasyEdit. The objects are under ``str``, as in CounterFact."""
    edit = read_as_easyedit(arguments)
    old = arguments["request"].get("target_true")
    return replace(edit, old_target=old.get("str") if isinstance(old, dict) else None)


def _point(
    editor: str,
    function: str,
    hparams: str,
    gamma: float = MEMIT_GAMMA,
    cache: str | tuple[str, ...] | None = None,
    parameters: tuple[str, ...] = PARAMETERS,
) -> EditPoint:
    return EditPoint(
        editor=editor,
        function=function,
        hparams=hparams,
        gamma=gamma,
        read=read,
        labels="rewriting_targets",
        cache=cache,
        parameters=parameters,
    )


EDIT_POINTS = [
    _point(
        "ROME",
        "rome.compute_v:compute_v",
        "rome.rome_hparams:ROMEHyperParams",
        ROME_GAMMA,
        # Only MEMIT's repository caches these. AlphaEdit's has dropped the argument.
        cache="rome.rome_main:execute_rome",
        parameters=WITH_KEY,
    ),
    _point(
        "MEMIT",
        "memit.compute_z:compute_z",
        "memit.memit_hparams:MEMITHyperParams",
        # The last two are AlphaEdit's.
        cache=(
            "memit.memit_main:execute_memit",
            "memit.memit_seq_main:execute_memit",
            "memit.memit_rect_main:execute_memit",
        ),
    ),
    _point(
        "AlphaEdit",
        "AlphaEdit.compute_z:compute_z",
        "AlphaEdit.AlphaEdit_hparams:AlphaEditHyperParams",
        cache="AlphaEdit.AlphaEdit_main:apply_AlphaEdit_to_model",
    ),
    _point(
        "NSE",
        "nse.compute_z:compute_z",
        "nse.nse_hparams:NSEHyperParams",
        cache="nse.nse_main:apply_nse_to_model",
    ),
    *(
        _point(
            "PMET",
            f"pmet.compute_zs:{function}",
            "pmet.pmet_hparams:PMETHyperParams",
            PMET_GAMMA,
            cache="pmet.pmet_main:execute_pmet",
        )
        for function in ("compute_zs", "compute_z")
    ),
]


@hookimpl
def sadr_edit_points() -> list[EditPoint]:
    """Return every editor of this code to which SADR attaches."""
    return EDIT_POINTS
