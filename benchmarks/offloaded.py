"""Compares edits of a whole model with edits of a model that accelerate offloads to disk.

    python benchmarks/offloaded.py HPARAMS.yaml

The upper ten layers are offloaded. The model needs thirty layers with the names that Llama uses.
The script edits two built-in records. It shows whether all scores are equal to the last bit, and
how long the edits take.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import accelerate
from torch import nn

import sadr_plugin
from sadr_plugin import EditorOptions
from sadr_plugin.commands.terminal import silence
from sadr_plugin.evaluation import (
    BUILTIN,
    Arm,
    EvaluationRun,
    LocalEngine,
    Result,
    SingleEvaluator,
    load,
    sample,
)


def offload(model: nn.Module, folder: Path) -> None:
    here = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    here += [f"model.layers.{layer}" for layer in range(20)]
    away = [f"model.layers.{layer}" for layer in range(20, 30)]
    places = {**dict.fromkeys(here, "cpu"), **dict.fromkeys(away, "disk")}
    accelerate.dispatch_model(
        model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True
    )


def results(hparams: Path, folder: Path, offloaded: bool) -> list[Result]:
    hook = sadr_plugin.plugin_manager().hook
    editor = hook.sadr_editor(file=hparams, options=EditorOptions())
    if offloaded:
        offload(editor.model, folder / "layers")
    settings = hook.sadr_read_hparams(file=hparams).sadr
    arms = [Arm("plain", None), Arm("sadr", settings)]
    evaluator = SingleEvaluator(editor, arms, fluency=False)
    records = sample(load(BUILTIN).records, 2, 0)
    return EvaluationRun(LocalEngine(evaluator), folder / f"{offloaded}.jsonl").run(records)


def main(hparams: str) -> None:
    sadr_plugin.enable()
    with tempfile.TemporaryDirectory() as folder, silence():
        whole, spread = (results(Path(hparams), Path(folder), way) for way in (False, True))
    print("| record | arm | scores equal | seconds, whole | offloaded |\n|---|---|---|---|---|")
    for one, other in zip(whole, spread, strict=True):
        equal = (one.scores, one.drift) == (other.scores, other.drift)
        print(f"| {one.record} | {one.arm} | {equal} | {one.seconds:.1f} | {other.seconds:.1f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
