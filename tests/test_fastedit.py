"""FastEdit's ROME: left padding, another tokenizer argument, the whole target in the batch."""

import json

import fastedit.rome.compute_v
import pytest
import torch
from fastedit.rome import ROMEHyperParams, rome_main

import sadr_fastedit
import sadr_plugin
from sadr_fastedit import sadr_edit_points
from sadr_plugin.commands._verdict import verdict_on
from sadr_plugin.devices import cuda_or_cpu
from sadr_plugin.errors import ConfigError, PositionError
from sadr_plugin.evaluation import Record, UneditedWeights, edited
from sadr_plugin.testing import EditorConformance, witnessing
from support import attributes, tiny_llama, word_tokenizer

(POINT,) = sadr_edit_points()


def hparams(layers, steps, **changes):
    hparams = ROMEHyperParams.from_name("llama-7b")
    hparams.layers, hparams.v_num_grad_steps, hparams.v_loss_layer = layers, steps, 3
    for name, value in changes.items():
        setattr(hparams, name, value)
    return hparams


class TestConformance(EditorConformance):
    point = POINT

    def new_model(self):
        return tiny_llama()

    def hparams(self, **flag):
        return hparams([1], 6, v_lr=2.0, clamp_norm_factor=100, **flag)

    def run(self, model, hparams):
        tokenizer = word_tokenizer()
        tokenizer.padding_side = "left"
        request = {"prompt": "the {} is in", "subject": "tower", "target": " rome"}
        with cuda_or_cpu():
            return fastedit.rome.compute_v.compute_v(
                model, tokenizer, request, hparams, 1, torch.ones(64), ["{}", "so then {}"]
            )


REQUEST = {
    "prompt": "{} is located in the city of",
    "subject": "The Eiffel Tower",
    "target": " New York City",
}


@pytest.fixture
def left_padding(smol):
    _, tokenizer = smol
    tokenizer.padding_side = "left"
    yield tokenizer
    tokenizer.padding_side = "right"


def test_on_smollm2(smol, left_padding, monkeypatch):
    model, tokenizer = smol
    sadr_plugin.enable()
    before = attributes(model)
    found = {}
    with witnessing() as witness, cuda_or_cpu():
        for gamma in (0, 0.05):
            found[gamma] = rome_main.compute_v(
                model,
                tokenizer,
                dict(REQUEST),
                hparams([9], 6, v_lr=0.5, sadr={"gamma": gamma, "stop_at": 1}),
                9,
                torch.ones(1536),
                ["{}", "Human: {}", "The cat sat on the mat. {}"],
            )
    assert attributes(model) == before
    free, held = witness.reports
    print(f"penalty after 6 steps: {free.steps[-1].penalty:.4f}, {held.steps[-1].penalty:.4f}")
    assert held.steps[-1].penalty < free.steps[-1].penalty
    assert 0 < held.steps[0].target < held.steps[-1].target
    assert not torch.equal(found[0], found[0.05])


def test_positions_by_decoding(smol, left_padding):
    model, tokenizer = smol
    sadr_plugin.enable()
    batches = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(kwargs["input_ids"]), with_kwargs=True
    )
    with witnessing() as witness, cuda_or_cpu():
        rome_main.compute_v(
            model,
            tokenizer,
            dict(REQUEST),
            hparams([9], 2, sadr=True),
            9,
            torch.ones(1536),
            ["{}", "The cat sat on the mat. {}"],
        )
    hook.remove()
    for row, (ids, subject) in enumerate(zip(batches[0], witness.rows[0]["subject"], strict=False)):
        assert tokenizer.decode(ids[subject]) == " Tower"
        attended = witness.rows[0]["current"][0, row, 0]
        prediction = int(attended.nonzero().max())
        assert tokenizer.decode(ids[prediction]) == " of"


def test_a_whole_edit_in_half_precision(monkeypatch):
    """FastEdit turns its vector into float16, so its own entry point wants a model in that."""
    from sadr_easyedit import smollm2

    model, tokenizer = smollm2.load(torch_dtype=torch.float16)
    tokenizer.padding_side = "left"
    monkeypatch.setattr(rome_main, "CONTEXT_TEMPLATES", ["{}", "Human: {}"])
    sadr_plugin.enable()
    weight = model.get_parameter("model.layers.9.mlp.down_proj.weight")
    before = weight.detach().clone()
    with witnessing() as witness, cuda_or_cpu():
        rome_main.apply_rome_to_model(
            model, tokenizer, [dict(REQUEST)], hparams([9], 4, v_lr=0.5, sadr=True)
        )
    (report,) = witness.reports
    assert (report.editor, len(report.steps)) == ("ROME", 4)
    assert report.steps[-1].penalty > 0
    assert not torch.equal(weight, before)


def test_its_last_token_lies_behind_the_prediction(smol, left_padding):
    model, tokenizer = smol
    sadr_plugin.enable()
    with pytest.raises(PositionError, match="behind the prediction position"):
        rome_main.compute_v(
            model,
            tokenizer,
            dict(REQUEST),
            hparams([9], 2, fact_token="last", sadr=True),
            9,
            torch.ones(1536),
            ["{}"],
        )


def test_the_flag_is_checked_where_it_is_set():
    sadr_plugin.enable()
    with pytest.raises(ConfigError, match=r"sadr\.gamma"):
        hparams([9], 2, sadr={"gamma": -1})


@pytest.fixture
def settings(tmp_path):
    """A file for FastEdit with a small model, and a function that changes it."""
    tiny_llama().save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")

    def write(**changes):
        content = {
            "alg_name": "FastEdit-ROME",
            "model_name": str(tmp_path / "model"),
            "config": "llama-7b",
            "layers": [1],
            "v_loss_layer": 3,
            "v_num_grad_steps": 4,
            "sadr": {"gamma": 1.0, "select_heads": False},
            **changes,
        }
        file = tmp_path / "fastedit.yaml"
        file.write_text(json.dumps(content))
        return file

    return write


def test_it_is_evaluated(settings):
    """By the hooks that `sadr eval` asks."""
    sadr_plugin.enable()
    hook = sadr_plugin.plugin_manager().hook
    file = settings()
    summary = hook.sadr_read_hparams(file=file)
    assert (summary.editor, summary.layer, summary.sadr["gamma"]) == ("ROME", 1, 1.0)
    torch.manual_seed(0)
    editor = hook.sadr_editor(file=file, options=sadr_plugin.EditorOptions())
    unedited = UneditedWeights(editor.model, editor.weights)
    records = [
        Record(key, subject, "the {} is in", "rome", "paris")
        for key, subject in (("0", "tower"), ("1", "louvre"))
    ]
    for sadr in (None, summary.sadr):
        with witnessing() as witness, edited(editor, unedited, records, sadr):
            assert list(unedited.changes().values()) > [0]
        assert len(witness.reports) == (2 if sadr else 0)
    unedited.check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": "llama-8b"}, "config: FastEdit has no settings named 'llama-8b'"),
        ({"model_name": None}, "lacks model_name"),
        ({"layers": 5}, "layers: expected a list of indices, got 5"),
        ({"layers": []}, "layers: expected a list of indices"),
        ({"v_lrr": 1}, "v_lrr: FastEdit's ROME has no such setting"),
    ],
)
def test_a_file_that_is_wrong(settings, changes, message):
    hook = sadr_plugin.plugin_manager().hook
    with pytest.raises(ConfigError, match=message):
        hook.sadr_read_hparams(file=settings(**changes))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"v_loss_layer": 47}, None),  # FastEdit names it and does not open it
        ({"lm_head_module": "head"}, None),
        ({"layers": [3]}, "the edited layer 3 is the last one"),
        ({"fact_token": "last"}, "FastEdit with fact_token: last"),
        ({"mlp_module_tmp": "model.layers.{}.ffn"}, "no module model.layers.1.ffn"),
        ({"mlp_module_tmp": "model.layers.{}.self_attn"}, "does not give hidden states alone"),
        ({"rewrite_module_tmp": "model.layers.{}.mlp.up_proj"}, "gives 64 numbers for a token"),
        ({"mom2_adjustment": True}, "FastEdit has no layer statistics"),
        ({"v_lr": "half"}, "v_lr: expected a number"),
        ({"v_num_grad_steps": 0}, "v_num_grad_steps: expected at least one step"),
    ],
)
def test_doctor_and_the_edit_agree(settings, changes, fault):
    file = settings(**changes)
    hook = sadr_plugin.plugin_manager().hook
    verdict = verdict_on(file, hook.sadr_read_hparams(file=file))
    record, error = Record("0", "tower", "the {} is in", "rome", "paris"), None
    with sadr_plugin.enabled(), sadr_plugin.reports() as reports:
        editor = hook.sadr_editor(file=file, options=sadr_plugin.EditorOptions())
        try:
            editor.edit([record], {"gamma": 1.0})
        except Exception as raised:
            error = raised
    assert verdict.is_good == (error is None) == bool(reports), (verdict, error)
    assert fault is None if verdict.is_good else fault in "; ".join(verdict.faults)


def test_a_file_for_another_editor_is_left_to_it(settings):
    assert sadr_fastedit.sadr_read_hparams(settings(alg_name="ROME")) is None
    assert sadr_fastedit.sadr_editor(settings(alg_name="ROME"), None) is None
