"""The architectures that SADR is known to support, as small models of transformers' own classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .notices import quiet_transformers

_SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_GPT = {"vocab_size": 60, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}


@dataclass(frozen=True)
class Architecture:
    """A small model of one of transformers' classes.

    Attributes:
        name: its name in the table.
        model_type: transformers' name of its class.
        settings: its configuration, small.
        layers: the path of its layers.
        without_sdpa: settings that the sdpa kernel of some releases ignores, with the values at
            which eager attention ignores them too.
        supported: False if SADR has to refuse the model.
    """

    name: str
    model_type: str
    settings: Mapping[str, Any]
    layers: str = "model.layers.{}"
    without_sdpa: Mapping[str, Any] = field(default_factory=dict)
    supported: bool = True


ARCHITECTURES = [
    Architecture("gpt2", "gpt2", _GPT, "transformer.h.{}"),
    Architecture(
        "gpt2, scaled by layer",
        "gpt2",
        {**_GPT, "scale_attn_by_inverse_layer_idx": True},
        "transformer.h.{}",
        {"scale_attn_by_inverse_layer_idx": False},
    ),
    Architecture(
        "gpt2, unscaled",
        "gpt2",
        {**_GPT, "scale_attn_weights": False},
        "transformer.h.{}",
        {"scale_attn_weights": True},
    ),
    Architecture(
        "gpt2, upcast",
        "gpt2",
        {**_GPT, "reorder_and_upcast_attn": True},
        "transformer.h.{}",
    ),
    Architecture("gptj", "gptj", {**_GPT, "rotary_dim": 4}, "transformer.h.{}"),
    Architecture(
        "gpt_neo (local windows)",
        "gpt_neo",
        {
            "vocab_size": 60,
            "hidden_size": 32,
            "num_layers": 4,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "window_size": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
        },
        "transformer.h.{}",
    ),
    Architecture("gpt_neox", "gpt_neox", _SIZES, "gpt_neox.layers.{}"),
    Architecture(
        "opt",
        "opt",
        {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32},
        "model.decoder.layers.{}",
    ),
    Architecture(
        "bloom (ALiBi)",
        "bloom",
        {"vocab_size": 60, "hidden_size": 32, "n_layer": 3, "n_head": 4, "pad_token_id": 0},
        "transformer.h.{}",
    ),
    Architecture("falcon", "falcon", _SIZES, "transformer.h.{}"),
    Architecture(
        "falcon (ALiBi)",
        "falcon",
        {**_SIZES, "alibi": True, "multi_query": False},
        "transformer.h.{}",
    ),
    Architecture(
        "falcon, new decoder",
        "falcon",
        {**_SIZES, "new_decoder_architecture": True, "num_kv_heads": 2},
        "transformer.h.{}",
    ),
    Architecture(
        "mpt (ALiBi)",
        "mpt",
        {"vocab_size": 60, "d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 64},
        "transformer.blocks.{}",
    ),
    Architecture("llama", "llama", _GROUPED),
    Architecture("mistral (sliding window)", "mistral", {**_GROUPED, "sliding_window": 4}),
    Architecture("mixtral", "mixtral", {**_GROUPED, "num_local_experts": 2}),
    Architecture("qwen2", "qwen2", _GROUPED),
    Architecture("qwen3 (q/k norm)", "qwen3", {**_GROUPED, "head_dim": 8}),
    Architecture(
        "gemma2 (softcap)",
        "gemma2",
        {
            **_GROUPED,
            "head_dim": 8,
            "sliding_window": 4,
            "attn_logit_softcapping": 5.0,
            "query_pre_attn_scalar": 16,
        },
        without_sdpa={"attn_logit_softcapping": None},
    ),
    Architecture(
        "gemma3 (mixed windows)",
        "gemma3_text",
        {
            **_GROUPED,
            "num_hidden_layers": 4,
            "head_dim": 8,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window_pattern": 2,
            "query_pre_attn_scalar": 16,
        },
    ),
    Architecture("phi", "phi", _GROUPED),
    Architecture("phi3", "phi3", _GROUPED),
    Architecture("olmo2", "olmo2", _GROUPED),
    Architecture("stablelm", "stablelm", _GROUPED),
    Architecture("cohere", "cohere", _GROUPED),
    Architecture("granite", "granite", {**_GROUPED, "attention_multiplier": 0.3}),
    Architecture("starcoder2", "starcoder2", _GROUPED),
    Architecture(
        "deepseek_v3 (latent attention)",
        "deepseek_v3",
        {
            **_SIZES,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
    Architecture(
        "gpt_oss (sinks)",
        "gpt_oss",
        {
            **_GROUPED,
            "head_dim": 8,
            "sliding_window": 4,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    Architecture(
        "qwen3_next (hybrid)",
        "qwen3_next",
        {
            **_GROUPED,
            "num_hidden_layers": 4,
            "head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "layer_types": ["linear_attention", "full_attention"] * 2,
        },
    ),
    Architecture(
        "lfm2 (hybrid)",
        "lfm2",
        {**_GROUPED, "layer_types": ["conv", "full_attention", "full_attention"]},
    ),
    Architecture(
        "recurrent_gemma (hybrid, keys in a buffer)",
        "recurrent_gemma",
        {
            **_GROUPED,
            "num_hidden_layers": 4,
            "intermediate_size": 96,
            "lru_width": 32,
            "attention_window_size": 16,
            "block_types": ["attention", "recurrent"],
        },
    ),
    Architecture(
        "mamba (no attention)",
        "mamba",
        {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 4},
        "backbone.layers.{}",
        supported=False,
    ),
]


def build(architecture: Architecture, implementation: str, **changes: Any) -> Any:
    """Build the small random model. It is always the same, and its attention is far from uniform.

    Args:
        architecture: the architecture.
        implementation: its attention implementation.
        **changes: settings that differ from the architecture's own.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(architecture.model_type, **{**architecture.settings, **changes})
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.6)
    return model.eval()
