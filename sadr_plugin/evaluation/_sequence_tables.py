"""A run of edits that accumulate, as tables with a row for each arm at each checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._metrics import IN_SCORE, SHORT, WITH_DRS
from ._results import UNEDITED, Checkpoint, Result
from ._sequence_summary import UNRELATED, Model, SequenceSummary, summarise_sequence
from ._significance import Estimate
from ._summary import ArmSummary
from ._tables import NOTHING, cell, markdown_lines, number

if TYPE_CHECKING:
    from rich.table import Table

MADE = "made"
"""Replaces the number of edits for records that are asked about directly after their edit."""

UNRELATED_SHORT = {"fact": "UF", "relation": "UR"}
"""Abbreviations: facts about subjects that are never edited, and their relations."""

HEADER = [
    "edits",
    "arm",
    "S",
    *(SHORT[task] for task in WITH_DRS),
    *UNRELATED_SHORT.values(),
    "FL",
    "drift",
    "stop",
    "perplexity",
    "change",
]

NARROW = ("edits", "arm", "S", *(SHORT[task] for task in IN_SCORE), "UF", "perplexity", "change")


def sequence_rows(summary: SequenceSummary, intervals: bool) -> list[list[str]]:
    """Return the cells of the table, header first, without empty columns."""

    def percent(found: Estimate | None) -> str:
        if found is None or intervals:
            return cell(found)
        return f"{found.mean:.0f}"

    def row(edits: str, arm: ArmSummary, model: Model | None) -> list[str]:
        is_edited = arm.arm != UNEDITED
        return [
            edits,
            arm.arm,
            number(arm.score, 1),
            *(percent(arm.accuracy[task]) for task in WITH_DRS),
            *(percent(model.unrelated[kind]) if model else NOTHING for kind in UNRELATED),
            number(arm.fluency and 100 * arm.fluency, 0),
            _drift(arm) if is_edited else NOTHING,
            number(arm.stopped, 0),
            number(model.perplexity if model else None, 1),
            number(model.change if model and is_edited else None, 3),
        ]

    rows = [
        row(str(point.edits), arm, point.models.get(arm.arm))
        for point in summary.points
        for arm in point.arms
    ]
    rows += [row(MADE, arm, None) for arm in summary.made if arm.arm != UNEDITED]
    filled = [any(row[place] != NOTHING for row in rows) for place in range(len(HEADER))]
    return [list(compress(row, filled)) for row in (HEADER, *rows)]


def _drift(arm: ArmSummary) -> str:
    """Format the drift with its interval."""
    mean = number(arm.drift, 2)
    if arm.drift_interval is None:
        return mean
    low, high = arm.drift_interval
    return f"{mean} ({low:.2f}–{high:.2f})"


def sequence_table(summary: SequenceSummary, title: str) -> Table:
    """Return the table for the terminal. It fits into 80 columns."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    shown = Table(
        title=escape(title),
        caption="percent right; UF: facts never edited; change: of the edited weights, as a share "
        f"of\ntheir norm; {MADE}: each record directly after its own edit",
        box=box.SIMPLE,
        padding=(0, 0, 0, 1),
    )
    header, *rows = sequence_rows(summary, intervals=False)
    places = [place for place, name in enumerate(header) if name in NARROW]
    for place in places:
        name = {"perplexity": "PPL"}.get(header[place], header[place])
        shown.add_column(name, justify="left" if name == "arm" else "right", no_wrap=True)
    before = None
    for row in rows:
        if row[0] != before and before is not None:
            shown.add_section()
        before = row[0]
        shown.add_row(*(row[place] for place in places))
    return shown


def write_sequence(
    folder: Path,
    results: Sequence[Result],
    checkpoints: Sequence[Checkpoint],
    about: Mapping[str, Any],
    order: Sequence[str] | None = None,
) -> SequenceSummary:
    """Write ``summary.json`` and ``summary.md``, and return the summary.

    Arguments are as in `write` and `summarise_sequence`.
    """
    summary = summarise_sequence(results, checkpoints, order)
    data = {"about": dict(about), **asdict(summary)}
    (folder / "summary.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    text = markdown_lines(sequence_rows(summary, intervals=True))
    (folder / "summary.md").write_text(text, encoding="utf-8")
    return summary
