"""EasyEdit's editors, as an evaluation uses them."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sadr_plugin.attention._layers import layer_modules
from sadr_plugin.errors import ConfigError
from sadr_plugin.evaluation import Dimension, Editor, generators_kept

from .declarations import EDIT_POINTS
from .hparams_files import (
    NO_STATISTICS,
    ONE_AT_A_TIME,
    needs_statistics,
    rewritten_modules,
    vector_layers,
)
from .projection import prepare_projection

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor, nn

    from sadr_plugin import Edit
    from sadr_plugin.evaluation import Record

APPLY = {
    "ROME": "rome.rome_main:apply_rome_to_model",
    "R-ROME": "r_rome.r_rome_main:apply_r_rome_to_model",
    "MEMIT": "memit.memit_main:apply_memit_to_model",
    "MEMIT-FE": "memit_FE.memit_FE_main:apply_memit_FE_to_model",
    "PMET": "pmet.pmet_main:apply_pmet_to_model",
    "EMMET": "emmet.emmet_main:apply_emmet_to_model",
    "AlphaEdit": "alphaedit.AlphaEdit_main:apply_AlphaEdit_to_model",
    "CORE": "core.core_main:apply_core_to_model",
    "SPHERE": "SPHERE.SPHERE_main:apply_SPHERE_to_model",
    "EAMET": "eamet.eamet_main:apply_eamet_to_model",
}
"""The function of each editor that writes edits into a model's weights."""

SEARCHED = {
    "v_lr": (0.2, 3.0),
    "clamp_norm_factor": (0.1, 2.0),
    "kl_factor": (0.5, 16.0),
    "mom2_update_weight": (0.1, 10.0),
}
"""Settings that a search may change, with the smallest and largest factor on the file's value."""

LEAVES_OUT_SPACE = ("PMET",)
"""Editors that put no space before a target. ROME and R-ROME always add one, even a second."""


class Template(str):
    """A prompt with ``{}`` in the place of the subject. The subject is not put there again.

    AlphaEdit and SPHERE also replace the subject in a prompt that has ``{}`` already. In "The
    Artist {} lived in" they would find "Art" once more.
    """

    def replace(self, old: str, new: str, count: Any = -1, /) -> str:
        """Return the prompt unchanged if something is to become ``{}``."""
        return self if new == "{}" else super().replace(old, new, count)


class EasyEditEditor(Editor):
    """One of EasyEdit's editors with a model.

    Args:
        model: the model, edited in place.
        tokenizer: the model's tokenizer. It is set to pad on the right, as the editors expect.
        hparams: the editor's hparams object.
        seed: the random seed for the toolkit's context prompts, which are drawn at once.

    Raises:
        ConfigError: layer statistics are damaged or another model's, or the editor's projection
            (AlphaEdit, SPHERE) cannot be used or computed.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, hparams: Any, seed: int = 0) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.tokenizer.padding_side = "right"
        self.takes_batches = hparams.alg_name not in ONE_AT_A_TIME
        self._hparams = hparams
        self._read_layers()
        self._refuse_damaged_statistics()
        module, _, self._apply = APPLY[hparams.alg_name].partition(":")
        self._module: Any = importlib.import_module(f"easyeditor.models.{module}")
        self._draw_contexts(seed)
        self._remembers = hasattr(self._module, "cache_c_new")
        if self._remembers:
            prepare_projection(self._module, model, tokenizer, hparams)
        self.reset()

    def seen(self, record: Record) -> Edit:
        """Return a record's edit as the plugin sees it, with the toolkit's context prompts."""
        point = next(p for p in EDIT_POINTS if p.editor == self._hparams.alg_name)
        return point.read(
            {
                "model": self.model,
                "tok": self.tokenizer,
                "request": self._request(record),
                "hparams": self._hparams,
                "layer": self.layer,
                "context_templates": self._module.CONTEXT_TEMPLATES_CACHE,
            }
        )

    def edit(self, records: Sequence[Record], sadr: Mapping[str, Any] | None) -> None:
        """See `sadr_plugin.evaluation.Editor.edit`."""
        from sadr_plugin.devices import cuda_or_cpu

        hparams = copy.deepcopy(self._hparams)
        hparams.sadr = False if sadr is None else dict(sadr)
        requests = [self._request(record) for record in records]
        with cuda_or_cpu():
            getattr(self._module, self._apply)(self.model, self.tokenizer, requests, hparams)

    def search_space(self) -> dict[str, Dimension]:
        """See `Editor.search_space`. It has the loop's settings, and the layers with statistics.

        An editor with a projection keeps its layers, because the projection belongs to them.
        """
        hparams = self._hparams
        space = {
            name: Dimension(value * below, value * above, log=True)
            for name, (below, above) in SEARCHED.items()
            if isinstance(value := getattr(hparams, name, None), int | float) and value > 0
        }
        layers = [] if self._remembers else self._possible_layers()
        if len(layers) > 1:
            space["layer"] = Dimension(choices=layers)
        return space

    def settings(self) -> dict[str, Any]:
        """See `Editor.settings`."""
        return {
            name: self._hparams.layers[-1] if name == "layer" else getattr(self._hparams, name)
            for name in self.search_space()
        }

    def remarks(self) -> list[str]:
        """See `Editor.remarks`. Layer statistics may be missing, or come from too little text."""
        from .statistics import Job, remarks

        if needs_statistics(self._hparams):
            return remarks(Job(self.model, self.tokenizer, self._hparams))
        return [NO_STATISTICS]

    def as_hparams(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """See `Editor.as_hparams`. ``layer`` is the last of the edited layers."""
        keys = dict(settings)
        if "layer" in keys:
            keys["layers"] = self._layers_up_to(keys.pop("layer"))
        return keys

    def configured(self, settings: Mapping[str, Any]) -> EasyEditEditor:
        """See `Editor.configured`. The toolkit's context prompts stay the same."""
        other = copy.copy(self)
        other._hparams = copy.deepcopy(self._hparams)
        for name, value in self.as_hparams(settings).items():
            if not hasattr(other._hparams, name):
                known = ", ".join(self.search_space())
                raise ConfigError(
                    f"{self._hparams.alg_name} has no setting {name}; known are {known}"
                )
            setattr(other._hparams, name, value)
        other._read_layers()
        return other

    def prepare(self, layers: Sequence[int], corpus: Sequence[str], progress: Progress) -> None:
        """See `Editor.prepare`. Compute the layer statistics that are missing."""
        from .corpus import texts_of
        from .statistics import Job, compute, missing

        if self._remembers or not needs_statistics(self._hparams):
            return  # a projection belongs to its layers
        hparams = copy.deepcopy(self._hparams)
        possible = self._last_layers()
        wanted = [last for last in layers if last in possible]
        if not wanted:
            raise ConfigError(
                f"layers: none of {layers[0]}-{layers[-1]} can be the last of the "
                f"{len(hparams.layers)} edited layers; those from {possible[0]} to {possible[-1]} "
                "can"
            )
        hparams.layers = sorted({layer for last in wanted for layer in self._layers_up_to(last)})
        job = Job(self.model, self.tokenizer, hparams)
        if missing(job):
            compute(job, texts_of(corpus, job, progress), progress)

    def _possible_layers(self) -> list[int]:
        """Return the values that the last edited layer may have.

        If the editor needs statistics, they must be there for all edited layers.
        """
        from .statistics import Job, missing

        needs = needs_statistics(self._hparams)
        found = []
        for last in self._last_layers():
            there = self.configured({"layer": last})
            if not needs or not missing(Job(self.model, self.tokenizer, there._hparams)):
                found.append(last)
        total = len(layer_modules(self.model, self.layer_template))
        return found if needs else found[: total * 2 // 3]

    def _last_layers(self) -> range:
        """Return the layers of the model that can be the last edited one."""
        total = len(layer_modules(self.model, self.layer_template))
        return range(len(self._hparams.layers) - 1, total - 1)

    def _layers_up_to(self, last: int) -> list[int]:
        """Return the layers up to ``last``, as many as are edited now."""
        return list(range(last - len(self._hparams.layers) + 1, last + 1))

    def reset(self) -> None:
        """Make AlphaEdit and SPHERE forget the keys of earlier edits."""
        if self._remembers:
            self._module.cache_c_new = False

    def state(self) -> dict[str, Tensor]:
        """Return the second moments of earlier edits' keys [layers, width, width], if any."""
        if self._remembers and self._module.cache_c_new:
            return {"cache_c": self._module.cache_c.clone()}
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.reset()
        if "cache_c" in state:
            self._module.cache_c, self._module.cache_c_new = state["cache_c"].clone(), True

    def _refuse_damaged_statistics(self) -> None:
        """Check the layer statistics that exist. EasyEdit would open them in the middle of an edit.

        Raises:
            ConfigError: one of them cannot be used. The message names the file and the remedy.
        """
        from .statistics import Job, damaged

        if not needs_statistics(self._hparams):
            return
        spoiled = damaged(Job(self.model, self.tokenizer, self._hparams))
        if spoiled:
            name, fault = next(iter(spoiled.items()))
            raise ConfigError(f"{name}: {fault}")

    def _read_layers(self) -> None:
        hparams = self._hparams
        self.layer = vector_layers(hparams.alg_name, hparams.layers)[-1]
        self.layer_template = hparams.layer_module_tmp
        self.weights = [f"{module}.weight" for module in rewritten_modules(hparams)]

    def _request(self, record: Record) -> dict[str, str]:
        space = " " if self._hparams.alg_name in LEAVES_OUT_SPACE else ""
        return {
            "case_id": record.key,
            "prompt": Template(record.template),
            "subject": record.subject,
            "target_new": space + record.target_new.strip(),
            "ground_truth": record.target_true,
        }

    def _draw_contexts(self, seed: int) -> None:
        """Make the toolkit draw its context prompts now.

        The toolkit draws them once in a process. A resumed run has to use the same prompts.
        """
        import torch

        from sadr_plugin.devices import cuda_or_cpu

        module, hparams = self._module, self._hparams
        module.CONTEXT_TEMPLATES_CACHE = None
        function = module.get_context_templates
        values = {
            "model": self.model,
            "tok": self.tokenizer,
            "length_params": getattr(hparams, "context_template_length_params", None),
            # CORE's names for values of its hparams.
            "length": getattr(hparams, "ctx_len", None),
            "ctx_top_k": getattr(hparams, "ctx_top_k", None),
            "ctx_num": getattr(hparams, "ctx_num", None),
        }
        takes = inspect.signature(function).parameters
        with generators_kept(), cuda_or_cpu():
            torch.manual_seed(seed)
            function(**{name: value for name, value in values.items() if name in takes})
