"""The declarations of EasyEdit's editors.

All of these editors optimise a vector at one layer's output, so attention after that layer can
drift. PMET optimises two vectors, at the outputs of the layer's attention and of its MLP. The
editors differ in their names and in how they group contexts. UnKE and UnKE-ARE are not declared;
docs/editors.md says why.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sadr_plugin import Edit, EditPoint, Prompt, hookimpl
from sadr_plugin.errors import PositionError

ROME_GAMMA = 1e-2
MEMIT_GAMMA = 5e-3
PMET_GAMMA = 8e-2


def read(arguments: Mapping[str, Any]) -> Edit:
    """Read the arguments of ``compute_v`` or ``compute_z``.

    They are model, tok, request, hparams, layer and context_templates.
    """
    return _edit(arguments, _prompts(arguments["request"], arguments["context_templates"]))


def read_core(arguments: Mapping[str, Any]) -> Edit:
    """Read CORE's arguments. CORE may write contexts before the loop, into its own module."""
    if arguments["hparams"].context is None:
        return read(arguments)

    def prompts() -> list[Prompt]:
        module = sys.modules["easyeditor.models.core.compute_z"]
        return _prompts(arguments["request"], module.CONTEXT_TEMPLATES_CACHE)

    return _edit(arguments, prompts)


def read_eamet(arguments: Mapping[str, Any]) -> Edit:
    """Read EAMET's arguments. Its vector starts at zero only if ``delta_init`` says so."""
    prompts = _prompts(arguments["request"], arguments["context_templates"])
    return _edit(arguments, prompts, zero_start=arguments["hparams"].delta_init == "zero")


def _edit(
    arguments: Mapping[str, Any],
    prompts: Sequence[Prompt] | Callable[[], Sequence[Prompt]],
    zero_start: bool = True,
) -> Edit:
    hparams = arguments["hparams"]
    if hparams.fact_token == "last" and _takes_last_of_row(hparams):
        raise PositionError(
            "fact_token: last makes this editor add its vector at the last column of the padded "
            "batch, target and padding included, not at the prompt's last token; use subject_last"
        )
    return Edit(
        model=arguments["model"],
        tokenizer=arguments["tok"],
        prompts=prompts,
        layer=arguments["layer"],
        layer_template=hparams.layer_module_tmp,
        edited_token=hparams.fact_token,
        zero_start=zero_start,
        counts_from_left=True,
        target=_target(arguments["request"]),
        old_target=_old_target(arguments["request"]),
    )


def _target(request: Mapping[str, Any]) -> str:
    target = request["target_new"]
    return str(target["str"] if isinstance(target, dict) else target)  # EAMET accepts both


def _old_target(request: Mapping[str, Any]) -> str | None:
    """Return the old target if the user gives one. If not, EasyEdit uses an end-of-text token."""
    told = request.get("ground_truth")
    is_told = isinstance(told, str) and told.strip() and told.strip("<|>") != "endoftext"
    return told if is_told else None


def _takes_last_of_row(hparams: Any) -> bool:
    """Whether ``last`` means a row's last column, because the finder does not get the prompt."""
    package = type(hparams).__module__.rpartition(".")[0]
    for name in ("compute_v", "compute_z", "compute_zs"):
        module = sys.modules.get(f"{package}.{name}")
        finder = getattr(module, "find_fact_lookup_idx", None)
        if finder is not None and "input_prompt" not in inspect.signature(finder).parameters:
            return True
    return False


def _prompts(request: Mapping[str, Any], contexts: Sequence[str | Sequence[str]]) -> list[Prompt]:
    """Return the rewriting prompts. Contexts may come in groups (MEMIT) or as one list (ROME)."""
    flat: list[str] = []
    for context in contexts:
        flat.extend([context] if isinstance(context, str) else context)
    return [
        Prompt.from_template(context.format(request["prompt"]), request["subject"])
        for context in flat
    ]


def _point(
    editor: str,
    function: str,
    hparams: str,
    gamma: float = MEMIT_GAMMA,
    cache: str | None = None,
    read: Callable[[Mapping[str, Any]], Edit] = read,
) -> EditPoint:
    """Return an `EditPoint` whose names are relative to ``easyeditor.models``."""
    models = "easyeditor.models."
    return EditPoint(
        editor=editor,
        function=models + function,
        hparams=models + hparams,
        gamma=gamma,
        read=read,
        labels="rewriting_targets",
        cache=cache and models + cache,
    )


EDIT_POINTS = [
    _point("ROME", "rome.compute_v:compute_v", "rome.rome_hparams:ROMEHyperParams", ROME_GAMMA),
    _point(
        "R-ROME",
        "r_rome.compute_v:compute_v",
        "r_rome.r_rome_hparams:R_ROMEHyperParams",
        ROME_GAMMA,
    ),
    _point(
        "MEMIT",
        "memit.compute_z:compute_z",
        "memit.memit_hparams:MEMITHyperParams",
        cache="memit.memit_main:execute_memit",
    ),
    _point(
        "MEMIT-FE",
        "memit_FE.compute_z:_direct_compute_z",
        "memit_FE.memit_FE_hparams:MEMITFEHyperParams",
        cache="memit_FE.memit_FE_main:execute_memit",
    ),
    _point(
        "PMET",
        "pmet.compute_zs:compute_zs",
        "pmet.pmet_hparams:PMETHyperParams",
        PMET_GAMMA,
        cache="pmet.pmet_main:execute_pmet",
    ),
    _point(
        "PMET",
        "pmet.compute_zs:compute_z",
        "pmet.pmet_hparams:PMETHyperParams",
        PMET_GAMMA,
        cache="pmet.pmet_main:execute_pmet",
    ),
    _point(
        "EMMET",
        "emmet.compute_z:compute_z",
        "emmet.emmet_hparams:EMMETHyperParams",
        cache="emmet.emmet_main:execute_emmet",
    ),
    _point(
        "AlphaEdit",
        "alphaedit.compute_z:compute_z",
        "alphaedit.AlphaEdit_hparams:AlphaEditHyperParams",
        cache="alphaedit.AlphaEdit_main:execute_AlphaEdit",
    ),
    _point(
        "CORE",
        "core.compute_z:compute_z",
        "core.core_hparams:COREHyperParams",
        cache="core.core_main:execute_core",
        read=read_core,
    ),
    _point(
        "SPHERE",
        "SPHERE.compute_z:compute_z",
        "SPHERE.SPHERE_hparams:SPHEREHyperParams",
        cache="SPHERE.SPHERE_main:execute_AlphaEdit",
    ),
    _point(
        "EAMET",
        "eamet.compute_z:compute_z",
        "eamet.hparams:EAMETHyperParams",
        cache="eamet.eamet_main:execute_eamet",
        read=read_eamet,
    ),
]


@hookimpl
def sadr_edit_points() -> list[EditPoint]:
    """Return every editor of EasyEdit to which SADR attaches."""
    return EDIT_POINTS


@hookimpl
def sadr_hparams_base() -> str:
    """Return the base class of all of EasyEdit's hparams classes."""
    return "easyeditor.util.hparams:HyperParams"
