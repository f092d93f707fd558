"""EasyEdit's ROME on SmolLM2-135M: one fact edited, and taken back."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sadr_plugin import smollm2

from .editing import weights_kept

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Settings:
    """One edit and how to make it; with ``covariance``, it looks where the layer's statistics
    are and leaves other facts' keys alone."""

    subject: str
    prompt: str
    target: str
    layer: int
    gamma: float
    steps: int
    seed: int
    covariance: bool = True

    def hparams(self) -> Any:
        """EasyEdit's hparams for this edit."""
        return smollm2_hparams(self.layer, self.steps, self.covariance)


class Rome:
    """EasyEdit's ROME for one fact, applied to a model and taken back."""

    def __init__(self, model: nn.Module, tokenizer: Any, settings: Settings) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.request = {
            "prompt": settings.prompt,
            "subject": settings.subject,
            "target_new": settings.target,
        }

    def edit(self) -> Any:
        """The edit as the plugin sees it; draws ROME's context prompts, from the seed."""
        import torch
        from easyeditor.models.rome import rome_main

        from .editors import read

        hparams = self.settings.hparams()
        torch.manual_seed(self.settings.seed)
        contexts = rome_main.get_context_templates(
            self.model, self.tokenizer, hparams.context_template_length_params
        )
        return read(
            {
                "model": self.model,
                "tok": self.tokenizer,
                "request": self.request,
                "hparams": hparams,
                "layer": self.settings.layer,
                "context_templates": contexts,
            }
        )

    @contextlib.contextmanager
    def applied(self, with_sadr: bool) -> Iterator[None]:
        """The model with the edit in it, inside the block; the exact weights afterwards."""
        from easyeditor.models.rome import rome_main

        hparams = self.settings.hparams()
        if with_sadr:
            hparams.sadr = {"gamma": self.settings.gamma}
        with weights_kept(self.model, hparams):
            rome_main.apply_rome_to_model(self.model, self.tokenizer, [self.request], hparams)
            yield


def statistics_folder() -> Path:
    """Where SmolLM2's layer statistics are kept."""
    return smollm2.cache_folder() / "stats"


def smollm2_hparams(layer: int, steps: int, covariance: bool = False) -> Any:
    """EasyEdit's ROME settings for SmolLM2-135M."""
    import torch
    from easyeditor.models.rome import ROMEHyperParams

    return ROMEHyperParams(
        layers=[layer],
        fact_token="subject_last",
        v_num_grad_steps=steps,
        v_lr=0.5,
        v_loss_layer=29,
        v_weight_decay=0.5,
        clamp_norm_factor=4,
        kl_factor=0.0625,
        mom2_adjustment=covariance,
        context_template_length_params=[[5, 5], [10, 5]],
        rewrite_module_tmp="model.layers.{}.mlp.down_proj",
        layer_module_tmp="model.layers.{}",
        mlp_module_tmp="model.layers.{}.mlp",
        attn_module_tmp="model.layers.{}.self_attn",
        ln_f_module="model.norm",
        lm_head_module="lm_head",
        mom2_dataset="wikipedia",
        mom2_n_samples=3000,
        mom2_dtype="float32",
        alg_name="ROME",
        # The PyPI release wants the number of a CUDA device, the main branch takes a name.
        device=0 if torch.cuda.is_available() or not _takes_device_names() else "cpu",
        model_name="smollm2-135m-llama",
        stats_dir=str(statistics_folder()),
    )


def _takes_device_names() -> bool:
    return importlib.util.find_spec("easyeditor.util.device") is not None
