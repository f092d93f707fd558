"""EasyEdit's editors for an evaluation: a fact edited, and taken back to the bit."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sadr_plugin.errors import ConfigError

from .declarations import EDIT_POINTS

if TYPE_CHECKING:
    from torch import nn

    from sadr_plugin import Edit
    from sadr_plugin.evaluation import Record

APPLY = {
    "ROME": "rome.rome_main:apply_rome_to_model",
    "R-ROME": "r_rome.r_rome_main:apply_r_rome_to_model",
    "MEMIT": "memit.memit_main:apply_memit_to_model",
    "PMET": "pmet.pmet_main:apply_pmet_to_model",
    "EMMET": "emmet.emmet_main:apply_emmet_to_model",
}
"""The functions that put an edit into a model's weights, by editor."""

LEAVES_OUT_SPACE = ("PMET",)
"""Editors that put no space before a target. ROME and R-ROME put one before any, even a second."""


def rewritten_modules(hparams: Any) -> list[str]:
    """The modules an editor rewrites; PMET two in each layer."""
    templates = getattr(hparams, "rewrite_module_tmps", None) or [hparams.rewrite_module_tmp]
    return [template.format(layer) for layer in hparams.layers for template in templates]


@contextlib.contextmanager
def weights_kept(model: nn.Module, hparams: Any) -> Iterator[None]:
    """After the block the weights an editor rewrites are to the bit what they were before it."""
    import torch

    names = [f"{module}.weight" for module in rewritten_modules(hparams)]
    weights = {name: model.get_parameter(name).detach().clone() for name in names}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                model.get_parameter(name).copy_(weight)


class EasyEditEditor:
    """One of EasyEdit's editors with a model.

    Args:
        model: the model, edited in place.
        tokenizer: its tokenizer; it pads on the right from now on, as the editors expect.
        hparams: the editor's hparams object.
        seed: what the toolkit's random context prompts are drawn from, here and now.

    Raises:
        ConfigError: the editor is none that can be evaluated.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, hparams: Any, seed: int = 0) -> None:
        if hparams.alg_name not in APPLY:
            raise ConfigError(
                f"alg_name: {hparams.alg_name} cannot be evaluated; {', '.join(APPLY)} can"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.tokenizer.padding_side = "right"
        self.layer: int = hparams.layers[-1]
        self.layer_template: str = hparams.layer_module_tmp
        self._hparams = hparams
        module, _, name = APPLY[hparams.alg_name].partition(":")
        self._module = importlib.import_module(f"easyeditor.models.{module}")
        self._apply = name
        self._draw_contexts(seed)

    def edit(self, record: Record) -> Edit:
        """A record's edit as the plugin sees it, with the toolkit's own context prompts."""
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

    @contextlib.contextmanager
    def edited(self, record: Record, sadr: Mapping[str, Any] | None) -> Iterator[None]:
        """See `sadr_plugin.evaluation.Editor.edited`."""
        from .devices import cuda_or_cpu

        hparams = copy.deepcopy(self._hparams)
        hparams.sadr = False if sadr is None else dict(sadr)
        requests = [self._request(record)]
        with weights_kept(self.model, hparams):
            with cuda_or_cpu():
                getattr(self._module, self._apply)(self.model, self.tokenizer, requests, hparams)
            yield

    def _request(self, record: Record) -> dict[str, str]:
        space = " " if self._hparams.alg_name in LEAVES_OUT_SPACE else ""
        return {
            "case_id": record.key,
            "prompt": record.template,
            "subject": record.subject,
            "target_new": space + record.target_new.strip(),
            "ground_truth": record.target_true,
        }

    def _draw_contexts(self, seed: int) -> None:
        """Have the toolkit draw its context prompts now: it does so once in a process, and a run
        that is taken up again is to find the same ones."""
        import torch

        from .devices import cuda_or_cpu

        module = self._module
        module.CONTEXT_TEMPLATES_CACHE = None  # type: ignore[attr-defined]
        function = module.get_context_templates
        values = {
            "model": self.model,
            "tok": self.tokenizer,
            "length_params": getattr(self._hparams, "context_template_length_params", None),
        }
        takes = inspect.signature(function).parameters
        with torch.random.fork_rng(devices=[]), cuda_or_cpu():
            torch.manual_seed(seed)
            function(**{name: value for name, value in values.items() if name in takes})
