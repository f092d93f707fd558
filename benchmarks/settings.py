"""Tries settings on the built-in records that docs/results-tables.md does not report.

    python benchmarks/settings.py HPARAMS.yaml OUT.jsonl '{"NAME": {"gamma": 1, "keep": …}, …}'

Each name is an arm, with its settings under `sadr:`. An interrupted run continues where it stopped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

import sadr_plugin
from sadr_plugin import EditorOptions
from sadr_plugin.commands.terminal import silence
from sadr_plugin.evaluation import (
    BUILTIN,
    Arm,
    EvaluationRun,
    LocalEngine,
    SingleEvaluator,
    load,
    markdown,
    sample,
    summarise,
)


def main(hparams: str, out: str, arms: str) -> None:
    torch.set_float32_matmul_precision("medium")
    everything = load(BUILTIN).records
    reported = {record.key for record in sample(everything, 60, 0)}
    records = [record for record in everything if record.key not in reported]
    tried = [Arm(name, settings) for name, settings in json.loads(arms).items()]
    sadr_plugin.enable()
    console = Console(file=sys.stdout)  # silence() replaces sys.stdout
    with Progress(console=console) as progress, silence():
        hook = sadr_plugin.plugin_manager().hook
        editor = hook.sadr_editor(file=Path(hparams), options=EditorOptions())
        evaluation = EvaluationRun(
            LocalEngine(SingleEvaluator(editor, tried, fluency=False)), Path(out)
        )
        bar = progress.add_task("records × arms", total=len(records) * (len(tried) + 1))
        progress.update(bar, completed=len(evaluation.results))
        evaluation.run(records, lambda _: progress.advance(bar))
    print(markdown(summarise(evaluation.results, [arm.name for arm in tried])))


if __name__ == "__main__":
    main(*sys.argv[1:])
