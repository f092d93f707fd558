"""EasyEdit's `BaseEditor`, from an hparams file to its own metrics: ROME, MEMIT, PMET, with SADR.

    EASYEDIT_HOME=CHECKOUT PYTHON tests/easyedit/base_editor.py FOLDER [EDITOR…]

``PYTHON`` is an interpreter with all dependencies of EasyEdit's main branch and this plugin. The
script is written as a user's: apart from layer statistics, which it computes from Python's manual,
it knows nothing of the plugin. Writes ``FOLDER/base_editor.json`` and prints a line for each run.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, os.environ["EASYEDIT_HOME"])

import yaml
from easyeditor import BaseEditor, MEMITHyperParams, PMETHyperParams, ROMEHyperParams
from facts import FACTS
from rich.progress import Progress

from sadr_easyedit import smollm2
from sadr_easyedit.corpus import python_manual
from sadr_easyedit.statistics import Job, compute

COMMON = {
    "device": "cpu",
    "fact_token": "subject_last",
    "v_num_grad_steps": 20,
    "v_lr": 0.5,
    "v_loss_layer": 29,
    "v_weight_decay": 0.5,
    "clamp_norm_factor": 4,
    "kl_factor": 0.0625,
    "mom2_adjustment": True,
    "rewrite_module_tmp": "model.layers.{}.mlp.down_proj",
    "layer_module_tmp": "model.layers.{}",
    "mlp_module_tmp": "model.layers.{}.mlp",
    "attn_module_tmp": "model.layers.{}.self_attn",
    "ln_f_module": "model.norm",
    "lm_head_module": "model.embed_tokens",
    "mom2_dataset": "wikipedia",
    "mom2_n_samples": 1000,
    "mom2_dtype": "float32",
    "sadr": {"gamma": 0.04},
}
SEVERAL_LAYERS = {
    **COMMON,
    "layers": [8, 9],
    "layer_selection": "all",
    "mom2_update_weight": 2000,
    "batch_size": 1,
}
HPARAMS = {
    "ROME": (
        ROMEHyperParams,
        {**COMMON, "layers": [9], "context_template_length_params": [[5, 5]]},
    ),
    "MEMIT": (MEMITHyperParams, SEVERAL_LAYERS),
    "PMET": (
        PMETHyperParams,
        {
            **SEVERAL_LAYERS,
            "nll_loss_factor": 1.0,
            "rewrite_module_tmps": [
                "model.layers.{}.self_attn.o_proj",
                "model.layers.{}.mlp.down_proj",
            ],
        },
    ),
}


def editor(folder, name, **changes):
    """A `BaseEditor` whose layer statistics are there."""
    hparams_class, content = HPARAMS[name]
    file = folder / f"{name.lower()}.yaml"
    own = {
        "alg_name": name,
        "model_name": str(smollm2.model_folder()),
        "stats_dir": str(folder / "stats"),
    }
    file.write_text(yaml.safe_dump({**own, **content, **changes}))
    hparams = hparams_class.from_hparams(str(file))
    made = BaseEditor.from_hparams(hparams)
    if name == "PMET":
        # Two oddities of the toolkit, with SADR or without: it pads PMET on the left, which PMET
        # does not expect, and gives targets their space only where the model's name has "gpt".
        made.tok.padding_side = "right"
        made.model.name_or_path = "tokens like gpt2's"
    with Progress() as progress:
        compute(Job(made.model, made.tok, hparams), python_manual()[:1000], progress)
    return made


def arguments(facts):
    prompts, subjects, targets, truths = (list(column) for column in zip(*facts, strict=True))
    return {
        "prompts": prompts,
        "subject": subjects,
        "target_new": targets,
        "ground_truth": truths,
    }


def accuracies(metrics, when):
    return [float(metric[when]["rewrite_acc"][0]) for metric in metrics]


def main(folder, names):
    results = {}

    def record(name, metrics, seconds):
        before, after = accuracies(metrics, "pre"), accuracies(metrics, "post")
        results[name] = {"before": before, "after": after, "seconds": round(seconds, 1)}
        print(f"RESULT {name}: {before} -> {after} in {seconds:.0f} s", flush=True)

    for name in names:
        made = editor(folder, name)
        started = time.perf_counter()
        metrics, _, _ = made.edit(**arguments(FACTS[:1]), sequential_edit=False)
        record(f"{name} edit", metrics, time.perf_counter() - started)
    for name in {"MEMIT", "PMET"} & names:
        made = editor(folder, name, batch_size=2)
        started = time.perf_counter()
        metrics, _, _ = made.batch_edit(**arguments(FACTS[:2]))
        record(f"{name} batch_edit", metrics, time.perf_counter() - started)
    if "ROME" in names:
        made = editor(folder, "ROME")
        started = time.perf_counter()
        metrics, _, _ = made.edit(**arguments(FACTS), sequential_edit=True)
        record("ROME sequential", metrics, time.perf_counter() - started)
    (folder / "base_editor.json").write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    folder = Path(sys.argv[1]).absolute()
    os.chdir(folder)  # BaseEditor writes logs where it runs
    main(folder, set(sys.argv[2:] or HPARAMS))
