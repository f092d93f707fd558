"""Models, a tokenizer and an adapter small enough to look into; and SmolLM2, the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from smalledit import editor as small_editor
from support import SmallAdapter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import sadr_plugin
from sadr_plugin import smollm2

WORDS = """<pad> <unk> so then tower louvre is in a city rome paris another batch the of now
eiffel""".split()  # noqa: SIM905


@pytest.fixture(autouse=True)
def _disabled_afterwards():
    yield
    sadr_plugin.disable()


@pytest.fixture(scope="session")
def word_tokenizer():
    """One token a word; pads on the right."""
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
    )


@pytest.fixture
def tiny_llama():
    """A random Llama: 4 layers, 4 heads, 2 key heads."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def request_():
    return {"prompt": "the {} is in", "subject": "tower", "target": "rome"}


@pytest.fixture
def small_adapter():
    adapter = SmallAdapter()
    manager = sadr_plugin.plugin_manager()
    manager.register(adapter, name="small")
    yield adapter
    sadr_plugin.disable()
    manager.unregister(adapter)


@pytest.fixture
def small(small_adapter):
    """The small toolkit's module, attached."""
    sadr_plugin.enable()
    return small_editor


@pytest.fixture(scope="session")
def golden():
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def smol():
    """SmolLM2-135M and its tokenizer."""
    return smollm2.load()
