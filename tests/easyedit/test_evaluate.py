"""`sadr eval` with EasyEdit's own editors on SmolLM2."""

import json

import pytest
import torch
from typer.testing import CliRunner

import sadr_plugin
from sadr_easyedit.editing import EasyEditEditor
from sadr_plugin import smollm2
from sadr_plugin.cli import build
from sadr_plugin.errors import ConfigError
from sadr_plugin.evaluation.evaluator import fingerprint
from sadr_plugin.evaluation.records import Record

RECORD = {
    "requested_rewrite": {
        "prompt": "The Eiffel Tower is located in the city of",
        "subject": "The Eiffel Tower",
        "target_new": "Rome",
        "target_true": "Paris",
    },
    "rewrite": {
        "prompts": ["The Eiffel Tower is located in the city of"],
        "targets": ["Rome"],
    },
    "l-neighbor": {
        "prompts": ["The Louvre is located in the city of", "The Sorbonne is located in"],
        "targets": ["Paris", "Paris"],
    },
}


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "data.json"
    file.write_text(json.dumps([RECORD, {"subject": "no prompt"}]))
    return str(file)


@pytest.fixture
def hparams(rome_yaml):
    def write(**changes):
        return rome_yaml(model_name=str(smollm2.model_folder()), v_num_grad_steps=8, **changes)

    return write


def evaluate(*arguments):
    return CliRunner().invoke(build(), ["eval", *arguments], catch_exceptions=False)


def test_both_arms_of_a_record(hparams, data, tmp_path):
    out = tmp_path / "out"
    options = ["--data", data, "--out", str(out), "--skip-bad", "--no-fluency", "--gamma", "0.5"]
    shown = evaluate(hparams(), *options)
    assert shown.exit_code == 0
    assert "unedited" in shown.stdout
    assert "skipped: record 1" in shown.stdout
    assert "Executing ROME" not in shown.stdout
    summary = json.loads((out / "summary.json").read_text())
    unedited, plain, sadr = summary["arms"]
    assert unedited["accuracy"]["efficacy"]["mean"] == 0
    assert plain["accuracy"]["efficacy"]["mean"] == 100
    assert plain["steps"] == sadr["steps"] == 8
    assert sadr["drift"] < plain["drift"]
    assert summary["about"]["arms"] == {"plain": None, "sadr": {"gamma": 0.5}}
    lines = (out / "results.jsonl").read_text()
    assert evaluate(hparams(), *options, "--resume").exit_code == 0
    assert (out / "results.jsonl").read_text() == lines, "nothing was done again"
    with pytest.raises(ConfigError, match="go on with --resume"):
        evaluate(hparams(), *options)
    with pytest.raises(ConfigError, match="other settings"):
        evaluate(hparams(), *options, "--resume", "--seed", "1")
    assert sadr_plugin.attached() == []


def test_bad_options(hparams, data, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match="--arms: expected some of plain"):
        evaluate(hparams(), "--data", data, "--skip-bad", "--arms", "plain,best", *out)
    other = tmp_path / "hparams.yml"
    other.write_text("alg_name: ROME")
    with pytest.raises(ConfigError, match=r"hparams\.yml: EasyEdit reads"):
        evaluate(str(other), "--data", data, "--skip-bad", *out)
    assert not (tmp_path / "out").exists()


def test_an_edit_is_put_in_and_taken_back_to_the_bit(model, tok, rome_yaml):
    from easyeditor.models.rome import ROMEHyperParams

    sadr_plugin.enable()
    hparams = ROMEHyperParams.from_hparams(rome_yaml(v_num_grad_steps=2))
    state = torch.get_rng_state()
    editor = EasyEditEditor(model, tok, hparams, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    record = Record("0", "The Eiffel Tower", "{} is in", "Rome", "Paris")
    before = fingerprint(model)
    for sadr in (None, {"gamma": 0.1}):
        with editor.edited(record, sadr):
            assert fingerprint(model) != before
        assert fingerprint(model) == before
    with pytest.raises(ZeroDivisionError), editor.edited(record, None):
        raise ZeroDivisionError
    assert fingerprint(model) == before
