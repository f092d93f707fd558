"""An adapter for the small toolkit, and a way to see what a model has been left with."""

from __future__ import annotations

from sadr_plugin import Edit, EditPoint, Prompt, hookimpl


def read_small(arguments):
    request, hparams = arguments["request"], arguments["hparams"]
    return Edit(
        model=arguments["model"],
        tokenizer=arguments["tok"],
        prompts=[
            Prompt.from_template(context.format(request["prompt"]), request["subject"])
            for context in hparams.contexts
        ],
        layer=hparams.layer,
        layer_template=hparams.layer_module_tmp,
        edited_token=hparams.fact_token,
    )


SMALL = EditPoint(
    editor="SMALL",
    function="smalledit.editor:optimise",
    hparams="smalledit.hparams:SmallHparams",
    gamma=0.5,
    read=read_small,
)


class SmallAdapter:
    """An adapter for the small toolkit; it keeps what the notifications bring."""

    def __init__(self):
        self.steps = []
        self.reports = []

    @hookimpl
    def sadr_edit_points(self):
        return [SMALL]

    @hookimpl
    def sadr_hparams_base(self):
        return "smalledit.hparams:Hparams"

    @hookimpl
    def sadr_step(self, step):
        self.steps.append(step)

    @hookimpl
    def sadr_edit_finished(self, report):
        self.reports.append(report)


def attributes(model):
    """Every module's own attributes, to compare before and after."""
    return {
        name: {key: id(value) for key, value in module.__dict__.items() if key != "training"}
        for name, module in model.named_modules()
    }
