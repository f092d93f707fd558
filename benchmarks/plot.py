"""Draws what `speed.py --growth` found: plot.py growth.jsonl docs/performance.svg"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

COLOURS = {"plain": "grey", "SADR": "C0", "official way": "C1"}


def main(source: str, target: str) -> None:
    found = [json.loads(line) for line in Path(source).read_text().splitlines()]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    panels = (
        (left, "tokens", "contexts", "tokens of the longest of 8 prompts"),
        (right, "contexts", "tokens", "prompts of up to 32 tokens"),
    )
    for axes, grows, fixed, label in panels:
        held = {"contexts": 8, "tokens": 32}[fixed]
        rows = [row for row in found if row["case"][fixed] == held]
        for arm, colour in COLOURS.items():
            points = sorted((row["case"][grows], row[arm]["seconds"]) for row in rows if arm in row)
            axes.plot(*zip(*points, strict=True), "o-", label=arm, color=colour, markersize=3)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.set_xticks(sorted({row["case"][grows] for row in rows}))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    left.set_ylabel("seconds of an edit of 20 steps")
    left.legend(fontsize="small")
    figure.savefig(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
