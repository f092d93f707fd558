"""Draws the results of `speed.py --growth`: plot.py growth.jsonl docs/performance.svg"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import altair as alt

from sadr_plugin.pages import save

COLOURS = {"plain": "#888888", "SADR": "#0072b2", "official way": "#e69f00"}
AXES = {
    "tokens": ("contexts", 8, "tokens of the longest of 8 prompts"),
    "contexts": ("tokens", 32, "prompts of up to 32 tokens"),
}


def main(source: str, target: str) -> None:
    found = [json.loads(line) for line in Path(source).read_text().splitlines()]
    panels = []
    for grows, (fixed, held, label) in AXES.items():
        rows = [
            {"x": row["case"][grows], "arm": arm, "seconds": row[arm]["seconds"]}
            for row in found
            if row["case"][fixed] == held
            for arm in COLOURS
            if arm in row
        ]
        scale = alt.Scale(type="log", base=2)
        colours = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
        places = sorted({row["x"] for row in rows})
        panels.append(
            alt.Chart(alt.Data(values=rows))
            .mark_line(point=True)
            .encode(
                x=alt.X("x:Q", title=label, scale=scale, axis=alt.Axis(values=places)),
                y=alt.Y("seconds:Q", title="seconds of an edit of 20 steps", scale=scale),
                color=alt.Color("arm:N", title=None, scale=colours),
            )
            .properties(width=280, height=220)
        )
    save(alt.hconcat(*panels), Path(target))


if __name__ == "__main__":
    main(*sys.argv[1:])
