"""Write a summary as tables (terminal, Markdown, TeX) and to files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._metrics import IN_SCORE, SHORT
from ._results import UNEDITED, Result
from ._significance import Estimate
from ._summary import ArmSummary, summarise

if TYPE_CHECKING:
    from rich.table import Table

HEADER = [
    "arm",
    "records",
    "S",
    *(SHORT[task] for task in IN_SCORE),
    "FL",
    "drift",
    "steps",
    "stop",
]

NOTHING = "–"


def cell(found: Estimate | None, form: str = "{} ({}–{})", digits: int = 1) -> str:
    """Format a metric with its interval.

    Args:
        found: the metric.
        form: the format of mean, lower and upper end.
        digits: the number of decimals of the interval's ends.
    """
    if found is None:
        return NOTHING
    if found.low is None or found.high is None:
        return f"{found.mean:.1f}"
    return form.format(f"{found.mean:.1f}", f"{found.low:.{digits}f}", f"{found.high:.{digits}f}")


def number(value: float | None, places: int) -> str:
    """Format a number, or return the sign for a missing value."""
    return NOTHING if value is None else f"{value:.{places}f}"


def summary_rows(
    summaries: Sequence[ArmSummary], form: str = "{} ({}–{})", digits: int = 1
) -> list[list[str]]:
    """Return the cells of the table, header first, without empty columns; see `cell`."""
    rows = [
        [
            summary.arm,
            str(summary.records),
            number(summary.score, 1),
            *(cell(summary.accuracy[task], form, digits) for task in IN_SCORE),
            number(summary.fluency and 100 * summary.fluency, 0),
            number(None if summary.arm == UNEDITED else summary.drift, 2),
            # No step was counted where no edit was made: exchanged attention, another model.
            number(summary.steps or None, 0),
            number(summary.stopped, 0),
        ]
        for summary in summaries
    ]
    filled = [any(row[place] != NOTHING for row in rows) for place in range(len(HEADER))]
    return [list(compress(row, filled)) for row in (HEADER, *rows)]


def table(summaries: Sequence[ArmSummary], title: str) -> Table:
    """Return the table for the terminal. It fits into 80 columns."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    rows = summary_rows(summaries, "{}\n{}–{}", digits=0)
    count = summaries[0].records if summaries else 0
    unit = "; FL in hundredths of a bit" if "FL" in rows[0] else ""
    shown = Table(
        title=escape(title),
        caption=f"{count} records; percent right, with 95 % intervals{unit}",
        box=box.SIMPLE,
        padding=(0, 0, 0, 1),
    )
    place = rows[0].index("records")  # all arms have the same number of records
    header, *rows = [[*row[:place], *row[place + 1 :]] for row in rows]
    for column in header:
        first = column == "arm"  # only this one can be wrapped, because names can be long
        shown.add_column(column, justify="left" if first else "right", no_wrap=not first)
    for row in rows:
        shown.add_row(*row)
    return shown


def markdown(summaries: Sequence[ArmSummary]) -> str:
    """Return the table as Markdown."""
    return markdown_lines(summary_rows(summaries))


def markdown_lines(table: Sequence[Sequence[str]]) -> str:
    """Return any table, header first, as Markdown."""
    header, *rows = table
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tex(summaries: Sequence[ArmSummary]) -> str:
    """Return the table as TeX in the paper's layout, with a row for each arm."""
    rows = summary_rows(summaries, r"{} {{\scriptsize({}--{})}}")
    body = [" & ".join(row) + r" \\" for row in rows]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def write(
    folder: Path,
    results: Sequence[Result],
    about: Mapping[str, Any],
    arms: Sequence[str] | None = None,
) -> list[ArmSummary]:
    """Write ``summary.json``, ``summary.md`` and ``summary.tex``.

    Args:
        folder: the folder for the files.
        results: the results of one mode.
        about: data about the run, for ``summary.json``.
        arms: the order of the arms; see `summarise`.

    Returns:
        The summaries.
    """
    summaries = summarise(results, arms)
    data = {"about": dict(about), "arms": [asdict(summary) for summary in summaries]}
    (folder / "summary.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    (folder / "summary.md").write_text(markdown(summaries), encoding="utf-8")
    (folder / "summary.tex").write_text(tex(summaries), encoding="utf-8")
    return summaries
