import json
import re
import shutil
import sys

import pytest
import torch
import yaml
from transformers import AutoConfig
from typer.testing import CliRunner

from easyedit.conftest import MAIN_BRANCH
from easyedit.hparams_layouts import LLAMA, MEMIT, ROME, save_models
from sadr_easyedit.base_editor import names_known, remarks_on_name, remarks_on_statistics
from sadr_easyedit.declarations import EDIT_POINTS
from sadr_easyedit.loading import device_fault, device_remark
from sadr_plugin.commands.cli import build
from sadr_plugin.errors import ConfigError


def sadr(*arguments):
    return CliRunner().invoke(build(), arguments, env={"COLUMNS": "200"}, catch_exceptions=False)


def test_doctor_says_what_there_is():
    shown = sadr("doctor")
    assert shown.exit_code == 0
    assert "easyedit (from sadr-plugin" in shown.stdout
    assert "ROME (easyeditor.models.rome.compute_v:compute_v): can be attached" in shown.stdout
    there = shown.stdout.count("can be attached")
    # FastEdit's ROME, and of EasyEdit all on the main branch, ROME and MEMIT on PyPI.
    assert there == 1 + (len(EDIT_POINTS) if MAIN_BRANCH else 2)
    if not MAIN_BRANCH:
        assert "this version of easyeditor has no easyeditor.models.pmet" in shown.stdout


def test_editors_is_a_table_of_them():
    shown = sadr("editors").stdout
    for point in EDIT_POINTS:
        assert point.editor in shown


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return folder


@pytest.fixture
def doctor(models, tmp_path):
    """`sadr doctor` on a file of a small model, with changes."""

    def run(content=None, name="hparams.yaml", **changes):
        content = {**(content or {**ROME, **LLAMA}), **changes}
        content["model_name"] = str(models / str(content["model_name"]))
        content.setdefault("stats_dir", str(tmp_path / "stats"))
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(content))
        return sadr("doctor", str(file))

    return run


def test_doctor_says_which_easyedit_it_found(doctor):
    shown = doctor().stdout
    editor, model, toolkit, versions = shown.splitlines()[:4]
    assert editor == "Editor: ROME (easyeditor.models.rome.compute_v:compute_v)"
    assert model.endswith("/llama (LlamaForCausalLM, 4 layers, 60,000 parameters)")
    which = r"commit [0-9a-f]{7}" if MAIN_BRANCH else r"version 0\.0\.1\.dev0"
    assert re.fullmatch(rf"Toolkit: .*/easyeditor \({which}\)", toolkit)
    assert versions.startswith("With: sadr-plugin ")
    assert "memit" not in shown.lower(), "nothing else concerns this file"


def test_the_verdict_has_the_gamma_and_the_stop_in_force(doctor):
    shown = doctor(sadr={"gamma": 0.01, "stop_at": 0.6, "num_grad_steps": 7}).stdout
    after = shown[shown.index("✓") :]
    assert "γ is 0.01; it stops once the target has a probability of 0.6, after 7 steps" in after
    assert "on so small a model, expect next to nothing of such a γ" in after


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"mom2_adjustment": False}, "mom2_adjustment: false: the edit looks at no"),
        ({"layers": [2, 1]}, "layers: [2, 1] are not in ascending order"),
        ({"attn_module_tmp": "h.{}.attn"}, "no module h.1.attn; the editor does not open it"),
        (
            {"max_length": "long"},
            "max_length: expected a whole number, got 'long'; the editor does",
        ),
        ({"mom2_adjustment": "no"}, "mom2_adjustment: 'no' counts as true; write that"),
        ({"model_name": "gemma"}, "and ends with a bare NotImplementedError for this one"),
        ({"name": "MEMIT/a.yaml"}, "alg_name: the file is in a folder MEMIT and names ROME"),
        ({"device": 70}, "`device: cpu`" if MAIN_BRANCH else "`with cuda_or_cpu():`"),
    ],
)
def test_remarks(doctor, changes, remark):
    shown = doctor(**changes)
    assert remark in "".join(line for line in shown.stdout.splitlines() if line.startswith("! "))


def test_a_loss_layer_below_the_last_one_is_remarked_where_it_counts(doctor):
    assert "v_loss_layer" not in doctor(v_loss_layer=2).stdout, "ROME takes the model's logits"
    assert "! v_loss_layer: 2 is not the last" in doctor({**MEMIT, **LLAMA}, v_loss_layer=2).stdout


def test_several_faults_are_said_at_once(doctor):
    shown = doctor(v_lr="half", v_loss_layer=9, ln_f_module="x", mlp_module_tmp="y.{}", bf16=True)
    assert shown.exit_code == 1
    faults = [line for line in shown.stdout.splitlines() if line.startswith("✗ ")]
    for key in ("v_lr", "v_loss_layer", "mlp_module_tmp", "bf16"):
        assert any(fault.startswith(f"✗ {key}: ") for fault in faults), key
    assert len(faults) == 4
    assert "SADR works with this" not in shown.stdout


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("google/gemma-2-2b", "gemma2", "bare NotImplementedError"),
        ("microsoft/phi-4", "phi3", "bare NotImplementedError"),
        ("openai/gpt-oss-20b", "gpt_oss", "sees 'gpt' in it and loads GPT-2's tokenizer"),
        ("checkpoint5/llama", "llama", "sees 't5' in it and loads T5"),
        ("EleutherAI/gpt-j-6B", "gptj", None),
        ("my-llama", "llama", None),
        ("google/t5-3b", "t5", None),
    ],
)
def test_what_base_editor_makes_of_a_name(name, kind, said):
    told = list(remarks_on_name(name, kind))
    assert (told == []) if said is None else (said in told[0])


def test_base_editor_knows_the_names_in_its_source():
    known = names_known()
    assert known.index("t5") < known.index("gpt") < known.index("llama")
    assert ("mistral" in known) == MAIN_BRANCH


@pytest.mark.parametrize(
    ("settings", "gib"),
    [
        ({"model_type": "llama", "max_position_embeddings": 131072}, "2,048"),
        ({"model_type": "llama", "max_position_embeddings": 4096}, None),
        ({"model_type": "qwen2", "max_position_embeddings": 32768}, None if MAIN_BRANCH else "128"),
    ],
)
def test_what_easyedits_own_statistics_would_take(settings, gib):
    config = AutoConfig.for_model(**settings, num_attention_heads=32)
    told = list(remarks_on_statistics(config))
    assert (told == []) if gib is None else (f"takes {gib} GiB in a layer" in told[0])


def test_it_is_said_only_where_statistics_are_missing(doctor, models):
    config = models / "long-llama" / "config.json"
    if not config.exists():
        shutil.copytree(models / "llama", config.parent)
        config.write_text(
            json.dumps({**json.loads(config.read_text()), "max_position_embeddings": 10**6})
        )
    assert "GiB" not in doctor(model_name="long-llama").stdout
    shown = doctor({**MEMIT, **LLAMA}, model_name="long-llama").stdout
    assert "! stats_dir: EasyEdit's own code would compute" in shown


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"alg_name": "memit"}, "alg_name is 'memit', not one of ROME, R-ROME, MEMIT"),
        ({"alg_name": "memit"}, "did you mean MEMIT?"),
        ({"alg_name": "AlphaEdt"}, "did you mean AlphaEdit?"),
        ({"alg_name": "GRACE"}, "alg_name is 'GRACE'"),
        ({"sadr": False}, "does not switch SADR on"),
    ],
)
def test_an_editor_that_is_not_attached(doctor, changes, said):
    shown = doctor(**changes)
    assert (shown.exit_code, said in shown.stdout) == (1, True), shown.stdout


def test_a_device_where_there_is_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_fault(1) is None
    assert "2 is no GPU of this machine, whose GPUs are 0-1" in device_fault(2)
    assert (device_fault("cpu") is None) == MAIN_BRANCH, "the PyPI release makes cuda:cpu of it"
    assert (device_fault("cuda:1") is None) == MAIN_BRANCH
    assert device_remark(0) is None


def test_easyedit_that_cannot_be_imported_is_said_as_such(doctor, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("easyeditor.models.rome")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "datasets", None)
    shown = doctor(rewrite_module_tmp="x.{}")
    assert "EasyEdit cannot be imported here: import of datasets halted" in shown.stdout
    assert "✗ rewrite_module_tmp: LlamaForCausalLM has no module x.1" in shown.stdout


def test_a_command_refuses_the_file_before_it_loads_the_model(doctor, models, tmp_path):
    doctor(v_loss_layer=9, v_lr="half")
    with pytest.raises(ConfigError, match=r"v_lr: expected a number.*; v_loss_layer: 9 is outside"):
        sadr("eval", str(tmp_path / "hparams.yaml"), "--data", "builtin", "--limit", "1")


def test_doctor_on_a_file_that_is_not_there(tmp_path):
    shown = sadr("doctor", str(tmp_path / "none.yaml"))
    assert (shown.exit_code, "there is no file" in shown.stdout) == (1, True)
