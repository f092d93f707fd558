"""Whole edits with the research code: it finds its vector with SADR, and writes it to the weights.

`test_research_code` says where the checkouts are to be.
"""

import importlib

import pytest
import torch

import sadr_plugin
from sadr_plugin.devices import cuda_or_cpu
from sadr_plugin.evaluation import Scorer, UneditedWeights
from test_research_code import (
    CITY,
    CONTEXTS,
    checkout,
    hparams_of,
    named_as_gpt2,
    point_of,
    request_of,
)

LAYERS = [8, 9]
MODULES = ["model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.down_proj"]
REQUEST = request_of(*CITY, "Rome", "Paris")
EDITS = {
    ("memit", "ROME"): "rome.rome_main:apply_rome_to_model",
    ("memit", "MEMIT"): "memit.memit_main:apply_memit_to_model",
    ("AlphaEdit", "AlphaEdit"): "AlphaEdit.AlphaEdit_main:apply_AlphaEdit_to_model",
    ("PMET", "PMET"): "pmet.pmet_main:apply_pmet_to_model",
}


def settings_of(editor):
    """Settings with which a few steps are enough, on SmolLM2."""
    return hparams_of(
        point_of(editor),
        layers=LAYERS[-1:] if editor == "ROME" else LAYERS,
        v_loss_layer=29,
        v_num_grad_steps=10,
        v_lr=0.5,
        v_weight_decay=0.1,
        clamp_norm_factor=4,
        lm_head_module="model.embed_tokens",
        mom2_adjustment=True,
        mom2_update_weight=1,
        L2=1,
        sadr={"gamma": 1.0},
    )


def made_up_statistics(main, editor, model, monkeypatch):
    """Let the statistics of every layer be those of independent inputs. Return more arguments."""

    def identity(model, tok, layer_name, *args, **kwargs):
        return torch.eye(model.get_submodule(layer_name).in_features)

    if editor == "ROME":
        monkeypatch.setattr(importlib.import_module("rome.compute_u"), "get_inv_cov", identity)
    elif editor != "AlphaEdit":
        monkeypatch.setattr(main, "get_cov", identity)
    else:  # its caller computes the projection, and holds what earlier edits left
        width = model.config.intermediate_size
        whole = torch.eye(width).expand(len(LAYERS), width, width)
        return {"P": whole, "cache_c": torch.zeros(len(LAYERS), width, width)}
    return {}


@pytest.mark.parametrize(("repository", "editor"), EDITS)
def test_a_whole_edit_of_smollm2(repository, editor, smol, monkeypatch):
    model, tok = smol
    module, _, apply = EDITS[repository, editor].partition(":")
    written = MODULES if editor == "PMET" else MODULES[1:]
    layers = LAYERS[-1:] if editor == "ROME" else LAYERS
    weights = [f"{name.format(layer)}.weight" for name in written for layer in layers]
    unedited = UneditedWeights(model, weights)
    scorer = Scorer(model, tok)

    def prefers_rome():
        prompt = REQUEST["prompt"].format(REQUEST["subject"])
        new, true = scorer.answers([(prompt, "Rome"), (prompt, "Paris")])
        return new.mean_log_probability > true.mean_log_probability

    assert not prefers_rome()
    with checkout(repository):
        main = importlib.import_module(module)
        sadr_plugin.enable()
        contexts = [*CONTEXTS[0], *CONTEXTS[1]] if editor == "ROME" else CONTEXTS
        monkeypatch.setattr(main, "CONTEXT_TEMPLATES_CACHE", contexts)
        more = made_up_statistics(main, editor, model, monkeypatch)
        try:
            with sadr_plugin.reports() as found, cuda_or_cpu(), named_as_gpt2(model.config):
                getattr(main, apply)(model, tok, [REQUEST], settings_of(editor), **more)
            (report,) = found
            assert report.editor == editor
            assert report.steps
            assert report.steps[-1].penalty > 0
            assert all(change > 0 for change in unedited.changes().values())
            assert prefers_rome()
        finally:
            unedited.restore()
            monkeypatch.undo()
    unedited.check()
    assert not prefers_rome()
