"""A model, a tokenizer and an adapter small enough to look into."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import sadr_plugin
from sadr_plugin import Edit, EditPoint, Prompt, hookimpl
from sadr_plugin.testing import own_attributes

attributes = own_attributes

WORDS = """<pad> <unk> so then tower louvre is in a city rome paris another batch the of now
eiffel""".split()  # noqa: SIM905


def exists(model_type):
    """Whether this transformers has the architecture."""
    try:
        AutoConfig.for_model(model_type)
    except ValueError:
        return False
    return True


def attached_of(toolkit):
    """A toolkit's editors that are attached. Other tests may have imported other toolkits."""
    return [p for p in sadr_plugin.attached() if p.function.startswith(f"{toolkit}.")]


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


def spaced_tokenizer():
    """A tokenizer as Llama 2 has it: alone, " rome" is a space and " rome"; behind a word it is
    one token."""
    pieces = ["<unk>", "▁", *(f"▁{word}" for word in WORDS[2:])]
    backend = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>", padding_side="right"
    )


def tiny_llama(layers=4):
    """A random Llama, always the same: 4 heads, 2 key heads."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def read_small(arguments):
    request, hparams = arguments["request"], arguments["hparams"]
    return Edit(
        model=arguments["model"],
        tokenizer=arguments["tok"],
        prompts=[
            Prompt.from_template(context.format(request["prompt"]), request["subject"])
            for context in hparams.contexts
        ],
        layer=hparams.layer,
        layer_template=hparams.layer_module_tmp,
        edited_token=hparams.fact_token,
        target=f" {request['target']}",
    )


SMALL = EditPoint(
    editor="SMALL",
    function="smalledit.editor:optimise",
    hparams="smalledit.hparams:SmallHparams",
    gamma=0.5,
    read=read_small,
)


class SmallAdapter:
    """An adapter for the small toolkit; it keeps what the notifications bring."""

    points = (SMALL,)

    def __init__(self):
        self.steps = []
        self.reports = []

    @hookimpl
    def sadr_edit_points(self):
        return list(self.points)

    @hookimpl
    def sadr_hparams_base(self):
        return "smalledit.hparams:Hparams"

    @hookimpl
    def sadr_step(self, step):
        self.steps.append(step)

    @hookimpl
    def sadr_edit_finished(self, report):
        self.reports.append(report)
