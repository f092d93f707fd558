"""The declaration of FastEdit's ROME."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sadr_plugin import Edit, EditPoint, Prompt, hookimpl
from sadr_plugin.errors import PositionError


def read(arguments: Mapping[str, Any]) -> Edit:
    """Read the arguments of ``compute_v``.

    They are model, tokenizer, request, hparams, layer, left_vector and context_templates.
    """
    request, hparams = arguments["request"], arguments["hparams"]
    if hparams.fact_token == "last":
        raise PositionError(
            "FastEdit with fact_token: last adds its vector behind the prediction position, where "
            "it moves no attention that SADR could restrict; use subject_last"
        )
    return Edit(
        model=arguments["model"],
        tokenizer=arguments["tokenizer"],
        prompts=[
            Prompt.from_template(context.format(request["prompt"]), request["subject"])
            for context in arguments["context_templates"]
        ],
        layer=arguments["layer"],
        layer_template=hparams.layer_module_tmp,
        edited_token=hparams.fact_token,
        target=request["target"],
    )


POINT = EditPoint(
    editor="ROME",
    function="fastedit.rome.compute_v:compute_v",
    hparams="fastedit.rome.rome_hparams:ROMEHyperParams",
    gamma=1e-2,
    read=read,
    labels="rewriting_targets",
)


@hookimpl
def sadr_edit_points() -> list[EditPoint]:
    """Return FastEdit's one editor."""
    return [POINT]


@hookimpl
def sadr_hparams_base() -> str:
    """Return the base class of FastEdit's hparams classes."""
    return "fastedit.utils.hparams:HyperParams"
