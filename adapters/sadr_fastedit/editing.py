"""FastEdit's ROME, as an evaluation uses it.

FastEdit has no hparams files, so this module defines a format. A file has these keys:

- ``alg_name``: always ``FastEdit-ROME``;
- ``model_name``: the model;
- ``config``: a name under which FastEdit itself has settings, such as ``llama-7b``;
- ``sadr``: as for every editor;
- any of these settings that should have another value.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sadr_easyedit.hparams_check import EXAMPLE, HparamsCheck
from sadr_plugin import EditorOptions, Findings, HparamsSummary
from sadr_plugin.adapter import edited_layers
from sadr_plugin.errors import ConfigError
from sadr_plugin.evaluation import Editor, attention_for_edits, load_model

from .declarations import POINT

if TYPE_CHECKING:
    from torch import nn

    from sadr_plugin.evaluation import Record

ALG_NAME = "FastEdit-ROME"

OWN = ("alg_name", "model_name", "config", "sadr")


def summary(file: Path) -> HparamsSummary | None:
    """Return what a file says, or None if it is not FastEdit's.

    A file for FastEdit makes this function import FastEdit, because the settings are in its code.

    Raises:
        ConfigError: FastEdit is not installed, or a key of the file is missing or unknown.
    """
    content = _content(file)
    if content is None:
        return None
    check = FastEditCheck(file, _hparams(file, content))
    return HparamsSummary(
        editor=check.point.editor,
        model_name=str(content["model_name"]),
        layer=check.vector_layers[-1],
        layer_template=str(check.settings["layer_module_tmp"]),
        sadr=content.get("sadr"),
        hparams=check.point.hparams,
        settings=content,
        check=check.findings,
        calls=check.calls,
    )


class FastEditCheck(HparamsCheck):
    """The checks of a file for FastEdit.

    Args:
        file: the file.
        hparams: FastEdit's `ROMEHyperParams`.
    """

    def __init__(self, file: Path, hparams: Any) -> None:
        super().__init__(file, dataclasses.asdict(hparams), POINT)
        self._hparams = hparams

    def findings(self, model: nn.Module | None) -> Findings:
        """Return what is wrong with the file, as `HparamsSummary.check` does."""
        found = super().findings(model)
        if not self.settings["mom2_adjustment"]:
            return found
        fault = (
            "mom2_adjustment: FastEdit has no layer statistics and ends with an error; set false"
        )
        return dataclasses.replace(found, faults=[*found.faults, fault])

    def calls(self, model: nn.Module, tokenizer: Any) -> list[dict[str, Any]]:
        """Return the arguments of an edit, as `HparamsSummary.calls` does."""
        request = {**EXAMPLE, "target": EXAMPLE["target_new"]}
        return [
            {**given, "tokenizer": tokenizer, "request": request, "left_vector": None}
            for given in self.arguments(model, tokenizer, self._hparams)
        ]


class FastEditEditor(Editor):
    """FastEdit's ROME with a model. It makes the edits of a batch one after another.

    Args:
        model: the model, edited in place.
        tokenizer: the model's tokenizer. It is set to pad on the left, as FastEdit expects.
        hparams: FastEdit's `ROMEHyperParams`.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, hparams: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.tokenizer.padding_side = "left"
        self.layer = max(hparams.layers)
        self.layer_template = hparams.layer_module_tmp
        self.weights = [f"{hparams.rewrite_module_tmp.format(i)}.weight" for i in hparams.layers]
        self._hparams = hparams

    def edit(self, records: Sequence[Record], sadr: Mapping[str, Any] | None) -> None:
        """See `sadr_plugin.evaluation.Editor.edit`."""
        from fastedit.rome import rome_main

        from sadr_plugin.devices import cuda_or_cpu

        hparams = copy.deepcopy(self._hparams)
        hparams.sadr = False if sadr is None else dict(sadr)
        requests = [
            {
                "prompt": record.template,
                "subject": record.subject,
                "target": f" {record.target_new.strip()}",
            }
            for record in records
        ]
        with cuda_or_cpu():
            rome_main.apply_rome_to_model(self.model, self.tokenizer, requests, hparams)


def editor(file: Path, options: EditorOptions) -> FastEditEditor | None:
    """Return the editor with the model that a file names, or None if it is not FastEdit's."""
    content = _content(file)
    if content is None:
        return None
    # FastEdit writes its edit in half precision and works with no other model.
    model, tokenizer = load_model(
        str(content["model_name"]), options, dtype="float16", attention=attention_for_edits()
    )
    return FastEditEditor(model, tokenizer, _hparams(file, content))


def _content(file: Path) -> dict[str, Any] | None:
    import yaml

    if file.suffix not in (".yaml", ".yml"):
        return None
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None  # the file of another adapter, or of none
    is_own = isinstance(content, dict) and content.get("alg_name") == ALG_NAME
    return content if is_own else None


def _hparams(file: Path, content: Mapping[str, Any]) -> Any:
    try:
        from fastedit.rome import ROMEHyperParams
    except ImportError as error:
        raise ConfigError(f"{file}: FastEdit is not installed ({error})") from None
    if not isinstance(content.get("model_name"), str):
        raise ConfigError(f"{file}: lacks model_name")
    try:
        hparams = ROMEHyperParams.from_name(content.get("config"))
    except NotImplementedError:
        raise ConfigError(
            f"{file}: config: FastEdit has no settings named {content.get('config')!r}; "
            "llama-7b is one that it has"
        ) from None
    for name in content.keys() - set(OWN):
        if not hasattr(hparams, name):
            raise ConfigError(f"{file}: {name}: FastEdit's ROME has no such setting")
        setattr(hparams, name, content[name])
    edited_layers(file, hparams.layers)
    return hparams
