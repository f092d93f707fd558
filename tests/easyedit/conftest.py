"""EasyEdit as it is: the installed PyPI release, or with EASYEDIT_HOME first on the path its
main branch. One process can hold only one of the two; `test_main_branch.py` starts another."""

import importlib.util
import os
import sys

import pytest
import torch
import yaml

from sadr_easyedit.environment import import_text_only
from sadr_plugin.devices import cuda_or_cpu

MAIN_BRANCH = os.environ.get("SADR_TEST_MAIN_BRANCH") == "1"
if MAIN_BRANCH:
    sys.path.insert(0, os.environ["EASYEDIT_HOME"])
    # Ray's workers are processes of their own.
    paths = [os.environ["EASYEDIT_HOME"], os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

ROME = {
    "alg_name": "ROME",
    "model_name": "smollm2-135m-llama",
    "stats_dir": "unused",
    "device": "cpu" if MAIN_BRANCH else 0,
    "layers": [9],
    "fact_token": "subject_last",
    "v_num_grad_steps": 10,
    "v_lr": 0.5,
    "v_loss_layer": 29,
    "v_weight_decay": 0.5,
    "clamp_norm_factor": 4,
    "kl_factor": 0.0625,
    "mom2_adjustment": False,
    "context_template_length_params": [[5, 5]],
    "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
    "layer_module_tmp": "model.layers.{}",
    "mlp_module_tmp": "model.layers.{}.mlp",
    "attn_module_tmp": "model.layers.{}.self_attn",
    "ln_f_module": "model.norm",
    "lm_head_module": "lm_head",
    "mom2_dataset": "wikipedia",
    "mom2_n_samples": 0,
    "mom2_dtype": "float32",
}


@pytest.fixture(scope="session", autouse=True)
def _text_only():
    if importlib.util.find_spec("easyeditor") is None:
        pytest.skip("EasyEdit is not installed here: its PyPI release needs transformers 4")
    import_text_only()


@pytest.fixture(autouse=True)
def _on_this_machine():
    with cuda_or_cpu():
        yield


@pytest.fixture
def rome_main(monkeypatch):
    from easyeditor.models.rome import rome_main

    # EasyEdit samples its context prompts once a process; two fixed ones are quicker.
    monkeypatch.setattr(rome_main, "CONTEXT_TEMPLATES_CACHE", ["{}", "However {}"])
    return rome_main


@pytest.fixture
def rome_yaml(tmp_path):
    """A function that writes a ROME hparams file with changes and gives its path."""

    def write(**changes):
        file = tmp_path / "rome.yaml"
        file.write_text(yaml.safe_dump({**ROME, **changes}))
        return str(file)

    return write


@pytest.fixture
def model(smol):
    model, _ = smol
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    yield model
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            weight.copy_(before[name])
    model.requires_grad_(True)


@pytest.fixture
def tok(smol):
    return smol[1]
