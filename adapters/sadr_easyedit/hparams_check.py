"""An hparams file against the toolkit that is here, the model and this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sadr_plugin import EditPoint, Findings
from sadr_plugin.errors import ConfigError, SadrError

from .base_editor import remarks_on_name, remarks_on_statistics
from .declarations import EDIT_POINTS
from .hparams_files import NO_STATISTICS, load_hparams, needs_statistics, vector_layers
from .hparams_values import as_toolkit_reads, key_faults, order_remarks, value_findings
from .toolkit_source import ToolkitSource

if TYPE_CHECKING:
    from torch import nn

EXAMPLE = {
    "prompt": "{} is located in the city of",
    "subject": "The Eiffel Tower",
    "target_new": " Rome",
}
"""An edit to make the checks with."""

KEEPS_KEYS = "cache_c"
"""The variable of AlphaEdit and SPHERE that they make for some names of models alone."""


class HparamsCheck:
    """The checks that are the same for EasyEdit, FastEdit and the research code.

    Args:
        file: the file.
        settings: the values as the toolkit has them.
        point: the declaration of the file's editor.
    """

    others: tuple[EditPoint, ...] = ()
    """Editors whose file it may be instead."""

    def __init__(self, file: Path, settings: Mapping[Any, Any], point: EditPoint) -> None:
        self.file = file
        self.settings = {str(key): value for key, value in settings.items()}
        self.point = point
        self.source = ToolkitSource(point)

    @property
    def layers(self) -> list[int]:
        """The edited layers."""
        return list(self.settings["layers"])

    @property
    def vector_layers(self) -> list[int]:
        """Those of them at which the editor finds a vector."""
        return vector_layers(self.point.editor, self.layers)

    @property
    def needs_statistics(self) -> bool:
        """Whether the editor reads layer statistics."""
        given = {"alg_name": self.point.editor, "mom2_adjustment": False, **self.settings}
        return needs_statistics(SimpleNamespace(**given))

    def key_faults(self) -> list[str]:
        """Return what is wrong with the keys."""
        return key_faults(self.source, self.settings, self.others)

    def findings(self, model: nn.Module | None) -> Findings:
        """Return what is wrong with the file, as `HparamsSummary.check` does.

        Without the editor's code, which `sadr doctor` says by itself, there is nothing to find.
        """
        if not self.source.is_the_declared_one():
            return Findings()
        values = value_findings(self.source, self.settings, self.needs_statistics)
        faults = [*self.key_faults(), *values.faults]
        remarks = [*values.remarks, *order_remarks(self.layers)]
        if model is not None:
            from .model_paths import ModelPaths

            paths = ModelPaths(
                model, self.source, self.settings, self.layers, self.vector_layers
            ).findings()
            faults += paths.faults
            remarks += paths.remarks
        return Findings(faults, (), remarks)

    def arguments(self, model: nn.Module, tokenizer: Any, hparams: Any) -> list[dict[str, Any]]:
        """Return the arguments of an edit's calls, one mapping for each."""
        return [
            {
                "model": model,
                "tok": tokenizer,
                "request": dict(EXAMPLE),
                "hparams": hparams,
                "layer": layer,
                "context_templates": ["{}"],
            }
            for layer in self.vector_layers
        ]


class EasyEditCheck(HparamsCheck):
    """The checks of a file of EasyEdit.

    Args:
        file: the file.
        content: what it holds.
        point: the declaration of the file's editor.
    """

    def __init__(self, file: Path, content: Mapping[Any, Any], point: EditPoint) -> None:
        super().__init__(file, as_toolkit_reads(content), point)
        self.others = tuple(p for p in EDIT_POINTS if p.editor != point.editor)
        self._model_name = str(content["model_name"])

    def findings(self, model: nn.Module | None) -> Findings:
        """Return what is wrong with the file, as `HparamsSummary.check` does."""
        found = super().findings(model)
        if not self.source.is_the_declared_one():
            return found
        faults = [*found.faults, *self._machine_faults(), *self._editor_faults()]
        remarks = [*found.remarks, *self._remarks()]
        lacking: Sequence[str] = ()
        if model is not None:
            kind = getattr(model.config, "model_type", None)
            remarks += remarks_on_name(self._model_name, kind)
            if not faults and self.needs_statistics:
                read = self._files(model)
                lacking = read.lacking
                remarks += read.remarks
        return Findings(faults, lacking, remarks)

    def calls(self, model: nn.Module, tokenizer: Any) -> list[dict[str, Any]]:
        """Return the arguments of an edit, as `HparamsSummary.calls` does.

        Raises:
            SadrError: EasyEdit cannot be imported, or its class refuses the file.
        """
        from .environment import import_text_only

        if self.key_faults():
            return []  # the class cannot be built, for the reasons in `findings`
        import_text_only()
        hparams = load_hparams(self.file)
        importlib.import_module(self.point.function.partition(":")[0])  # its finder is looked at
        return self.arguments(model, tokenizer, hparams)

    def _machine_faults(self) -> Iterator[str]:
        from .loading import device_fault

        if "device" in self.settings and (fault := device_fault(self.settings["device"])):
            yield fault
        if self.settings.get("model_parallel") and importlib.util.find_spec("accelerate") is None:
            yield "model_parallel: needs the package accelerate, which is not installed"

    def _editor_faults(self) -> Iterator[str]:
        """Yield what single editors refuse in the middle of an edit."""
        parts = self.source.tested_for(KEEPS_KEYS)
        if parts and not any(part in self._model_name.lower() for part in parts):
            yield (
                f"model_name: {self.point.editor} edits only models whose name has one of "
                f"{', '.join(parts)}; give the model's folder such a name"
            )
        weights, count = self.settings.get("mom2_update_weight"), len(self.layers)
        reads = self.source.reads("mom2_update_weight")
        if reads and isinstance(weights, list) and len(weights) < count:
            yield f"mom2_update_weight: expected one for each of the {count} layers"
        if self.settings.get("reg_lambda") and not self.settings.get("layer_range"):
            yield "reg_lambda: CORE then compares layers above the edited one; set layer_range, too"

    def _remarks(self) -> Iterator[str]:
        from .loading import device_remark

        if not self.needs_statistics:
            yield NO_STATISTICS
        if "device" in self.settings and (remark := device_remark(self.settings["device"])):
            yield remark
        folder = self.file.resolve().parent.name
        if folder in {point.editor for point in self.others}:
            yield (
                f"alg_name: the file is in a folder {folder} and names {self.point.editor}, so its "
                f"edits are those of {self.point.editor}"
            )

    def _files(self, model: nn.Module) -> Findings:
        """Return what is wrong with the layer statistics or the projection that an edit reads."""
        from .environment import import_text_only
        from .statistics import Job, remarks
        from .statistics_files import faults, projection_fault

        hparams = SimpleNamespace(**self.settings)
        try:
            import_text_only()
            if "P_loc" in self.settings and Path(str(self.settings["P_loc"])).exists():
                fault = projection_fault(hparams, model)
                return Findings(lacking=[] if fault is None else [fault])
            lacking = faults(hparams, model)
            others = [text for text in remarks(Job(model, None, hparams)) if text not in lacking]
        except ConfigError as error:
            return Findings(lacking=[str(error)])
        except (ImportError, SadrError):
            return Findings()  # `calls` says that EasyEdit cannot be imported
        large = list(remarks_on_statistics(model.config)) if lacking else []
        return Findings(lacking=lacking, remarks=[*others, *large])
