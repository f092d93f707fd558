"""The adapter: which function contains the loop, and how to read the function's arguments.

It does not import the editor, because it is loaded in every process that imports torch.
"""

from collections.abc import Mapping
from typing import Any

from sadr_plugin import Edit, EditPoint, Prompt, hookimpl


def read(arguments: Mapping[str, Any]) -> Edit:
    request, hparams = arguments["request"], arguments["hparams"]
    return Edit(
        model=arguments["model"],
        tokenizer=arguments["tokenizer"],
        prompts=[Prompt.from_template(text, request["subject"]) for text in request["prompts"]],
        layer=hparams.layer,
        layer_template=hparams.layer_template,
        target=" " + request["target"],
    )


POINT = EditPoint(
    editor="TwoVector",
    function="twovector.editor:find_vectors",
    hparams="twovector.editor:Hparams",
    gamma=0.1,
    read=read,
    steps_attribute="steps",
)


@hookimpl
def sadr_edit_points() -> list[EditPoint]:
    return [POINT]
