"""Draws runs of `sadr eval --mode sequence` under each other: sequences.py OUT.svg FOLDER…"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

from sadr_plugin.evaluation import (
    SHORT,
    UNEDITED,
    SequenceSummary,
    read_checkpoints,
    read_results,
    summarise_sequence,
)

TASKS = ["efficacy", "paraphrase", "neighbourhood", "relation", "distracting neighbourhood"]


def main(target: str, *folders: str) -> None:
    figure = Figure(figsize=(11, 2.3 * len(folders) + 0.6), layout="constrained")
    all_axes = figure.subplots(len(folders), len(TASKS), sharex=True, sharey=True, squeeze=False)
    for row, folder in zip(all_axes, map(Path, folders), strict=True):
        editor = json.loads((folder / "run.json").read_text())["hparams"]["alg_name"]
        found = summarise_sequence(
            read_results(folder / "results.jsonl"), read_checkpoints(folder / "checkpoints.jsonl")
        )
        for axes, task in zip(row, TASKS, strict=True):
            panel(axes, found, task)
        row[0].set_ylabel(f"{editor}, percent")
    for axes, task in zip(all_axes[0], TASKS, strict=True):
        axes.set_title(f"{SHORT[task]}, {task}", fontsize="small")
    all_axes[-1][len(TASKS) // 2].set_xlabel("edits made")
    lines, labels = all_axes[0][0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
    figure.savefig(target, metadata={"Date": None})


def panel(axes, found: SequenceSummary, task: str) -> None:
    """One metric of one run, with 95 % intervals."""
    arms = [arm.arm for arm in found.points[-1].arms if arm.arm != UNEDITED]
    edits = [point.edits for point in found.points]
    for number, arm in enumerate(arms):
        values = [
            next(a.accuracy[task] for a in point.arms if a.arm == arm) for point in found.points
        ]
        colour = f"C{number}"
        axes.plot(edits, [v.mean for v in values], ".-", color=colour, label=arm)
        low = [v.mean if v.low is None else v.low for v in values]
        high = [v.mean if v.high is None else v.high for v in values]
        axes.fill_between(edits, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(edits, edits)
    axes.minorticks_off()
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    main(*sys.argv[1:])
