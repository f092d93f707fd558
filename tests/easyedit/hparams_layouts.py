"""Hparams files as users and forks have them: keys and layouts, for models small enough to edit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SENTENCES = (
    "The Eiffel Tower is located in the city of Paris. The capital of Japan is Tokyo. "
    "However, it is said that Rome and Oslo lie elsewhere. Therefore, because I know, you do. "
)

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **SMALL, **HEADS},
    "tied-llama": {"model_type": "llama", **SMALL, **HEADS, "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", **SMALL, **HEADS},
    "qwen2": {"model_type": "qwen2", **SMALL, **HEADS},
    "gemma": {"model_type": "gemma", **SMALL, **HEADS, "head_dim": 8},
    "gpt2-xl": {"model_type": "gpt2", **GPT},
    "gpt-j-6b": {"model_type": "gptj", **GPT, "rotary_dim": 4},
    "llama-gpt-j": {"model_type": "gptj", **GPT, "rotary_dim": 4},
}
"""Models by the name of their folder. `BaseEditor` and AlphaEdit look at it."""


def save_models(folder):
    """Save each model, random, with one tokenizer for all."""
    tokenizer = _tokenizer()
    for name, settings in MODELS.items():
        torch.manual_seed(0)
        given = {"vocab_size": len(tokenizer), "initializer_range": 0.2, **settings}
        special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        config = AutoConfig.for_model(**{**given, **special})
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def _tokenizer():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|endoftext|>"], initial_alphabet=letters
    )
    backend.train_from_iterator([SENTENCES] * 20, trainer)
    end = {f"{kind}_token": "<|endoftext|>" for kind in ("bos", "eos", "pad", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **end)


LOOP = {
    "device": 0,
    "layers": [1],
    "fact_token": "subject_last",
    "v_num_grad_steps": 3,
    "v_lr": 0.5,
    "v_loss_layer": 3,
    "v_weight_decay": 0.5,
    "clamp_norm_factor": 4,
    "kl_factor": 0.0625,
    "mom2_dataset": "wikipedia",
    "mom2_n_samples": 100,
    "mom2_dtype": "float32",
    "sadr": {"gamma": 1.0},
}

LLAMA = {
    "model_name": "llama",
    "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
    "layer_module_tmp": "model.layers.{}",
    "mlp_module_tmp": "model.layers.{}.mlp",
    "attn_module_tmp": "model.layers.{}.self_attn",
    "ln_f_module": "model.norm",
    "lm_head_module": "lm_head",
}
GPT2 = {
    "model_name": "gpt2-xl",
    "rewrite_module_tmp": "transformer.h.{}.mlp.c_proj",
    "layer_module_tmp": "transformer.h.{}",
    "mlp_module_tmp": "transformer.h.{}.mlp",
    "attn_module_tmp": "transformer.h.{}.attn",
    "ln_f_module": "transformer.ln_f",
    "lm_head_module": "transformer.wte",
}
GPTJ = {
    **GPT2,
    "model_name": "gpt-j-6b",
    "rewrite_module_tmp": "transformer.h.{}.mlp.fc_out",
    "lm_head_module": "lm_head",
}
MISTRAL, QWEN = {**LLAMA, "model_name": "mistral"}, {**LLAMA, "model_name": "qwen2"}

ROME = {
    "alg_name": "ROME",
    **LOOP,
    "mom2_adjustment": False,
    "context_template_length_params": [[5, 10], [10, 10]],
}
MANY = {**LOOP, "layer_selection": "all", "mom2_adjustment": True, "mom2_update_weight": 100}
MEMIT = {"alg_name": "MEMIT", **MANY, "layers": [1, 2]}

GOOD = None


@dataclass
class File:
    """A file, and what is wrong with it.

    Attributes:
        name: what is special about it.
        content: the keys; None takes a key away.
        pypi: a part of the fault with EasyEdit's PyPI release; GOOD if an edit runs.
        main: the same with its main branch.
        statistics: what is at the place of the layer statistics.
        only_main: whether only the main branch has the editor.
    """

    name: str
    content: dict[str, Any]
    pypi: str | None = GOOD
    main: str | None = GOOD
    statistics: str = "none"
    only_main: bool = False
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        whole = {**self.content, **self.changes}
        self.content = {key: value for key, value in whole.items() if value is not None}


def both(name, content, fault=GOOD, statistics="none", **changes):
    return File(name, content, fault, fault, statistics, changes=changes)


def differs(name, content, pypi, main, statistics="none", **changes):
    return File(name, content, pypi, main, statistics, changes=changes)


def main_has(name, content, fault=GOOD, statistics="good", **changes):
    return File(name, content, None, fault, statistics, True, changes=changes)


E4 = {"update_norm_lambda": 0, "emmet_lambda": 0.1}
ALPHA = {**MANY, "nullspace_threshold": 0.02, "L2": 10, "P_loc": "project.pt"}

FILES = [
    # as EasyEdit ships them
    both("ROME on Llama", {**ROME, **LLAMA}),
    both("ROME on GPT-2 XL", {**ROME, **GPT2}),
    both("ROME on GPT-J", {**ROME, **GPTJ}),
    both("ROME on Mistral", {**ROME, **MISTRAL}),
    both("ROME on Qwen2", {**ROME, **QWEN}),
    both("ROME, rates as YAML reads 5e-1", {**ROME, **LLAMA}, v_lr="5e-1", v_weight_decay="1e-3"),
    both("ROME, two layers", {**ROME, **LLAMA}, layers=[1, 2]),
    both("ROME, the first token", {**ROME, **LLAMA}, fact_token="subject_first"),
    both("ROME with statistics", {**ROME, **LLAMA}, statistics="good", mom2_adjustment=True),
    both("ROME spread", {**ROME, **LLAMA}, model_parallel=True),
    both("ROME, an early stop", {**ROME, **LLAMA}, sadr={"stop_at": 0.9, "num_grad_steps": 6}),
    differs("ROME, fp16", {**ROME, **LLAMA}, "fp16: the ROMEHyperParams", GOOD, fp16=False),
    both("MEMIT on Llama", {**MEMIT, **LLAMA}, statistics="good"),
    both("MEMIT on GPT-2 XL", {**MEMIT, **GPT2}, statistics="good"),
    both(
        "MEMIT on a tied Llama",
        {**MEMIT, **LLAMA, "model_name": "tied-llama", "lm_head_module": "model.embed_tokens"},
        statistics="good",
    ),
    both(
        "MEMIT on a tied Llama, by its head",
        {**MEMIT, **LLAMA, "model_name": "tied-llama"},
        "lm_head.weight: it is shared; write model.embed_tokens",
        "good",
    ),
    # made for another model
    both("a larger model's loss layer", {**ROME, **LLAMA}, "v_loss_layer: 47", v_loss_layer=47),
    both("a larger model's layers", {**ROME, **LLAMA}, "the edited layer 17 is", layers=[17]),
    both("the last layer", {**ROME, **LLAMA}, "the edited layer 3 is the last", layers=[3]),
    both("Llama's paths on GPT-2", {**ROME, **LLAMA, "model_name": "gpt2-xl"}, "names no list of"),
    both(
        "GPT-2's projection on Llama",
        {**ROME, **LLAMA},
        "no module model.layers.1.mlp.c_proj",
        rewrite_module_tmp="model.layers.{}.mlp.c_proj",
    ),
    both(
        "the wrong projection",
        {**ROME, **LLAMA},
        "mlp.gate_proj of LlamaForCausalLM gives 64 numbers",
        rewrite_module_tmp="model.layers.{}.mlp.gate_proj",
    ),
    both(
        "the MLP in place of its projection",
        {**ROME, **LLAMA},
        "no parameter model.layers.1.mlp.weight",
        rewrite_module_tmp="model.layers.{}.mlp",
    ),
    both("a path of no MLP", {**ROME, **LLAMA}, "no module", mlp_module_tmp="model.layers.{}.ffn"),
    both("GPT-2's norm on Llama, unused", {**ROME, **LLAMA}, ln_f_module="transformer.ln_f"),
    both("GPT-2's norm on Llama", {**MEMIT, **LLAMA}, "no module", "good", ln_f_module="h.ln_f"),
    # keys and values
    both("no rate", {**ROME, **LLAMA}, "lacks v_lr", v_lr=None),
    both("a rate in words", {**ROME, **LLAMA}, "v_lr: expected a number", v_lr="half"),
    both("steps as a text", {**ROME, **LLAMA}, "v_num_grad_steps: ex", v_num_grad_steps="20"),
    both("one layer, no list", {**ROME, **LLAMA}, "layers: expected a list", layers=1),
    both(
        "a misspelt key",
        {**ROME, **LLAMA},
        "did you mean clamp_norm_factor?",
        clamp_norm_factor=None,
        clamp_norm_facter=4,
    ),
    both("a fork's key", {**ROME, **LLAMA}, "bf16: the ROMEHyperParams", bf16=True),
    both("ROME's file under MEMIT", {**ROME, **LLAMA}, "like a file of ROME", alg_name="MEMIT"),
    both("EMMET's file under MEMIT", {**MEMIT, **LLAMA, **E4}, "like a file of EMMET", "good"),
    both("a misspelt editor", {**ROME, **LLAMA}, "did you mean ROME?", alg_name="Rome1"),
    both(
        "too few contexts",
        {**ROME, **LLAMA},
        "context_template_length_params: expected at least 5",
        context_template_length_params=[[5, 2]],
    ),
    # this machine
    both("two GPUs", {**ROME, **LLAMA}, "device: '0,1' is no device", device="0,1"),
    both("no such folder", {**ROME, **LLAMA}, "there is no folder", model_name="hugging_cache"),
    both("no statistics", {**MEMIT, **LLAMA}, "statistics"),
    both("statistics of another model", {**MEMIT, **LLAMA}, "for another model", "foreign"),
    both("statistics of little text", {**MEMIT, **LLAMA}, GOOD, "thin"),
    both("damaged statistics", {**MEMIT, **LLAMA}, "statistics", "damaged"),
    # the plugin's own settings
    differs(
        "the prompt's last token", {**ROME, **LLAMA}, "fact_token: last", GOOD, fact_token="last"
    ),
    both("a misspelt term", {**ROME, **LLAMA}, "no plugin gives such", sadr={"terms": {"kep": {}}}),
    both("layers that are not there", {**ROME, **LLAMA}, "sadr.layers: 8", sadr={"layers": "8-9"}),
    both("a misspelt setting", {**ROME, **LLAMA}, "sadr.gama: unknown", sadr={"gama": 1}),
    # the main branch's editors
    main_has("R-ROME", {**ROME, **LLAMA, "alg_name": "R-ROME"}, statistics="none"),
    main_has("MEMIT-FE", {**MEMIT, **LLAMA, "alg_name": "MEMIT-FE"}),
    main_has("EMMET", {**MEMIT, **LLAMA, **E4, "alg_name": "EMMET", "layers": [1]}),
    main_has(
        "PMET",
        {**MEMIT, **LLAMA, "alg_name": "PMET", "nll_loss_factor": 1},
        rewrite_module_tmps=["model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.down_proj"],
    ),
    main_has("AlphaEdit", {**ALPHA, **LLAMA, "alg_name": "AlphaEdit"}),
    main_has(
        "AlphaEdit on a model of another name",
        {**ALPHA, **MISTRAL, "alg_name": "AlphaEdit"},
        "AlphaEdit edits only models whose name has one of llama",
    ),
    main_has(
        "AlphaEdit on GPT-J",
        {**ALPHA, **GPTJ, "alg_name": "AlphaEdit"},
        "AlphaEdit edits only models whose name has one of llama",
    ),
    main_has(
        "AlphaEdit on GPT-J in a folder that is named after Llama",
        {**ALPHA, **GPTJ, "alg_name": "AlphaEdit", "model_name": "llama-gpt-j"},
    ),
    main_has("AlphaEdit on GPT-2 XL", {**ALPHA, **GPT2, "alg_name": "AlphaEdit"}),
    main_has(
        "AlphaEdit on GPT-2 XL, by its head",  # its code takes the module's weight
        {**ALPHA, **GPT2, "alg_name": "AlphaEdit"},
        lm_head_module="lm_head",
    ),
    main_has(
        "EMMET on GPT-2 XL, by its head",
        {**MEMIT, **GPT2, **E4, "alg_name": "EMMET", "layers": [1]},
        "lm_head.weight: it is shared; write transformer.wte",
        lm_head_module="lm_head",
    ),
    main_has(
        "AlphaEdit's projection is of another model",
        {**ALPHA, **LLAMA, "alg_name": "AlphaEdit", "P_loc": "other.pt"},
        "P_loc",
    ),
    main_has(
        "SPHERE",
        {**ALPHA, **LLAMA, "alg_name": "SPHERE", "cumulative_ratio": 0.5},
        suppression_strength=0.5,
    ),
    main_has("CORE", {**MEMIT, **LLAMA, "alg_name": "CORE"}),
    main_has(
        "CORE without a range",
        {**MEMIT, **LLAMA, "alg_name": "CORE"},
        "reg_lambda: CORE",
        reg_lambda=1,
    ),
]
"""EAMET is left out: its own checks are those of MEMIT."""
