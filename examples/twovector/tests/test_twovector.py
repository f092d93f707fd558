"""The conformance kit, run on the tutorial's editor."""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import twovector
from sadr_plugin.testing import EditorConformance
from twovector_sadr import POINT

WORDS = ["<pad>", "<unk>", "so", "the", "tower", "is", "in", "a", "city", "rome", "paris"]


def tokenizer() -> Any:
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


class TestTwoVector(EditorConformance):
    point = POINT

    def new_model(self) -> nn.Module:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            initializer_range=0.3,
            pad_token_id=0,
        )
        model: nn.Module = LlamaForCausalLM(config)
        return model.eval()

    def hparams(self, **flag: Any) -> twovector.Hparams:
        return twovector.Hparams(lr=2.0, **flag)

    def run(self, model: nn.Module, hparams: twovector.Hparams) -> Any:
        request = {
            "prompts": ["the {} is in", "so the {} is in the city"],
            "subject": "tower",
            "target": "rome",
        }
        return twovector.editor.find_vectors(model, tokenizer(), request, hparams)
