"""Draws runs of `sadr eval --mode sequence` under each other: sequences.py OUT.svg FOLDER…"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

from sadr_plugin.evaluation import SHORT, read_checkpoints, read_results, summarise_sequence
from sadr_plugin.evaluation._sequence_plot import accuracy, draw_panel
from sadr_plugin.evaluation._summary import IN_TABLE


def main(target: str, *folders: str) -> None:
    figure = Figure(figsize=(11, 2.3 * len(folders) + 0.6), layout="constrained")
    all_axes = figure.subplots(len(folders), len(IN_TABLE), sharex=True, sharey=True, squeeze=False)
    for row, folder in zip(all_axes, map(Path, folders), strict=True):
        editor = json.loads((folder / "run.json").read_text())["hparams"]["alg_name"]
        found = summarise_sequence(
            read_results(folder / "results.jsonl"), read_checkpoints(folder / "checkpoints.jsonl")
        )
        for axes, task in zip(row, IN_TABLE, strict=True):
            draw_panel(axes, found, accuracy(task))
            axes.grid(alpha=0.3)
        row[0].set_ylabel(f"{editor}, percent")
    for axes, task in zip(all_axes[0], IN_TABLE, strict=True):
        axes.set_title(f"{SHORT[task]}, {task}", fontsize="small")
    all_axes[-1][len(IN_TABLE) // 2].set_xlabel("edits made")
    lines, labels = all_axes[0][0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
