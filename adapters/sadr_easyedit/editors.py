"""EasyEdit's editors, one declaration each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sadr_plugin import Edit, EditPoint, Prompt, hookimpl


def read_rome(arguments: Mapping[str, Any]) -> Edit:
    """``compute_v(model, tok, request, hparams, layer, left_vector, context_templates)``."""
    request, hparams = arguments["request"], arguments["hparams"]
    return Edit(
        model=arguments["model"],
        tokenizer=arguments["tok"],
        prompts=[
            Prompt.from_template(context.format(request["prompt"]), request["subject"])
            for context in arguments["context_templates"]
        ],
        layer=arguments["layer"],
        layer_template=hparams.layer_module_tmp,
        edited_token=hparams.fact_token,
    )


EDIT_POINTS = [
    EditPoint(
        editor="ROME",
        function="easyeditor.models.rome.compute_v:compute_v",
        hparams="easyeditor.models.rome.rome_hparams:ROMEHyperParams",
        gamma=1e-2,
        read=read_rome,
    ),
]


@hookimpl
def sadr_edit_points() -> list[EditPoint]:
    """Every editor of EasyEdit that SADR attaches to."""
    return EDIT_POINTS


@hookimpl
def sadr_hparams_base() -> str:
    """The base of all of EasyEdit's hparams classes."""
    return "easyeditor.util.hparams:HyperParams"
