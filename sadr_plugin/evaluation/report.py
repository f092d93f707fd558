"""What an evaluation adds up to: a summary, and its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .metrics import SHORT, TASKS, Estimate, estimate, probability, score, sign_test
from .results import UNEDITED, Result

if TYPE_CHECKING:
    from rich.table import Table

IN_TABLE = ("efficacy", "paraphrase", "neighbourhood", "relation", "distracting neighbourhood")
"""The paper's columns, in its order; the others stand in the summary."""


@dataclass(frozen=True)
class ArmSummary:
    """One arm over all its records.

    Attributes:
        arm: the arm's name.
        records: how many records have scores.
        failed: how many could not be edited.
        accuracy: each metric as the share of right answers, percent; None without questions.
        probability: each metric as the mean probability of the right answer, percent.
        score: S, from the accuracies.
        rewrite_acc: mean of the records', percent; what EasyEdit calls so.
        fluency: FL, bits, None without texts.
        drift: mean of the records' drift.
        steps: mean number of optimisation steps.
        seconds: mean seconds of an edit.
        versus: two-sided p of the sign test against each other arm, by metric.
    """

    arm: str
    records: int
    failed: int
    accuracy: dict[str, Estimate | None]
    probability: dict[str, Estimate | None]
    score: float | None
    rewrite_acc: float | None
    fluency: float | None
    drift: float | None
    steps: float
    seconds: float
    versus: dict[str, dict[str, float | None]]


def summarise(results: Sequence[Result]) -> list[ArmSummary]:
    """Every arm, in the order of first appearance, over the records that all arms have scored.

    In whatever order the records were evaluated, the summary is the same.
    """
    arms = list(dict.fromkeys(result.arm for result in results))
    scored = {
        arm: {r.record: r for r in results if r.arm == arm and r.error is None} for arm in arms
    }
    common = [
        key for key in sorted(scored[arms[0]]) if all(key in found for found in scored.values())
    ]
    together = {arm: [scored[arm][key] for key in common] for arm in arms}
    return [
        _summary(arm, sum(r.arm == arm and r.error is not None for r in results), together)
        for arm in arms
    ]


def _summary(arm: str, failed: int, together: Mapping[str, list[Result]]) -> ArmSummary:
    own = together[arm]
    scores = [result.scores for result in own]
    accuracies = {task: estimate(scores, task) for task in TASKS}
    return ArmSummary(
        arm=arm,
        records=len(own),
        failed=failed,
        accuracy=accuracies,
        probability={task: estimate(scores, task, probability) for task in TASKS},
        score=score(accuracies),
        rewrite_acc=_mean([r.rewrite_acc and 100 * r.rewrite_acc for r in own]),
        fluency=_mean([r.fluency for r in own]),
        drift=_mean([r.drift for r in own]),
        steps=_mean([r.steps for r in own]) or 0.0,
        seconds=_mean([r.seconds for r in own]) or 0.0,
        versus={
            other: {task: sign_test(scores, [r.scores for r in theirs], task) for task in TASKS}
            for other, theirs in together.items()
            if other != arm
        },
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


HEADER = ["arm", "records", "S", *(SHORT[task] for task in IN_TABLE), "FL", "drift", "steps"]

NOTHING = "–"


def _rows(summaries: Sequence[ArmSummary], digits: int = 1, space: str = " ") -> list[list[str]]:
    """The table, header first, without columns that no arm has anything in.

    Margins have ``digits`` after the point and ``space`` before their sign.
    """

    def cell(found: Estimate | None) -> str:
        if found is None:
            return NOTHING
        margin = f"{space}±{found.margin:.{digits}f}" if found.margin else ""
        return f"{found.mean:.1f}{margin}"

    def number(value: float | None, places: int) -> str:
        return NOTHING if value is None else f"{value:.{places}f}"

    rows = [
        [
            summary.arm,
            str(summary.records),
            number(summary.score, 1),
            *(cell(summary.accuracy[task]) for task in IN_TABLE),
            number(summary.fluency and 100 * summary.fluency, 0),
            number(None if summary.arm == UNEDITED else summary.drift, 2),
            number(None if summary.arm == UNEDITED else summary.steps, 0),
        ]
        for summary in summaries
    ]
    filled = [any(row[place] != NOTHING for row in rows) for place in range(len(HEADER))]
    return [list(compress(row, filled)) for row in (HEADER, *rows)]


def table(summaries: Sequence[ArmSummary], title: str) -> Table:
    """For the terminal, narrow enough for 80 columns."""
    from rich import box
    from rich.table import Table

    rows = _rows(summaries, digits=0, space="")
    count = summaries[0].records if summaries else 0
    shown = Table(
        title=title,
        caption=f"{count} records; percent right, ± 95 %; FL in hundredths of a bit",
        box=box.SIMPLE,
        padding=(0, 0, 0, 1),
    )
    place = rows[0].index("records")  # they are the same for every arm
    header, *rows = [[*row[:place], *row[place + 1 :]] for row in rows]
    for column in header:
        shown.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    return shown


def markdown(summaries: Sequence[ArmSummary]) -> str:
    """The table as Markdown."""
    header, *rows = _rows(summaries)
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tex(summaries: Sequence[ArmSummary]) -> str:
    """The table in the paper's layout: a row for each arm, the metrics across."""
    rows = _rows(summaries)
    body = [" & ".join(cell.replace("±", r"\,$\pm$\,") for cell in row) + r" \\" for row in rows]
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


def write(folder: Path, results: Sequence[Result], about: Mapping[str, Any]) -> list[ArmSummary]:
    """Write ``summary.json``, ``summary.md`` and ``summary.tex``; gives the summaries."""
    summaries = summarise(results)
    data = {"about": dict(about), "arms": [asdict(summary) for summary in summaries]}
    (folder / "summary.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    (folder / "summary.md").write_text(markdown(summaries), encoding="utf-8")
    (folder / "summary.tex").write_text(tex(summaries), encoding="utf-8")
    return summaries
