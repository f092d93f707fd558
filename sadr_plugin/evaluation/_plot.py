"""A picture of an evaluation: every arm's metrics with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import EvaluationError
from ._metrics import SHORT
from ._significance import Estimate
from ._summary import IN_TABLE, ArmSummary

SHOWN = (*IN_TABLE, "distracting relation")


def draw(file: Path, summaries: Sequence[ArmSummary], title: str) -> None:
    """Draw the arms' accuracies with 95 % intervals, metric by metric.

    Args:
        file: where to, in the format its suffix names, such as ``.svg`` or ``.png``.
        summaries: the arms; a metric that no record has a question for is left out.
        title: what stands above.

    Raises:
        EvaluationError: matplotlib is not installed, or there is nothing to draw.
    """
    new_figure = figure_class()
    tasks = [task for task in SHOWN if any(s.accuracy[task] for s in summaries)]
    if not tasks:
        raise EvaluationError("no record was scored in every arm")
    figure = new_figure(figsize=(1.5 + 1.3 * len(tasks), 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(summaries)
    for number, summary in enumerate(summaries):
        found: list[tuple[int, Estimate]] = [
            (place, estimate)
            for place, task in enumerate(tasks)
            if (estimate := summary.accuracy[task]) is not None
        ]
        axes.bar(
            [place + (number - (len(summaries) - 1) / 2) * width for place, _ in found],
            [estimate.mean for _, estimate in found],
            width,
            yerr=[
                [0 if e.low is None else e.mean - e.low for _, e in found],
                [0 if e.high is None else e.high - e.mean for _, e in found],
            ],
            label=summary.arm,
            color=f"C{number}" if number else "lightgrey",
            error_kw={"elinewidth": 1, "capsize": 2},
        )
    axes.set_xticks(range(len(tasks)), [SHORT[task] for task in tasks])
    axes.set_ylim(0, 105)
    axes.set_ylabel("right answers, percent")
    axes.set_title(title, fontsize="medium")
    axes.legend(
        fontsize="small", ncols=len(summaries), loc="upper center", bbox_to_anchor=(0.5, -0.1)
    )
    save(figure, file)


def figure_class() -> Any:
    """Matplotlib's, which draws without a screen.

    Raises `EvaluationError` where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise EvaluationError(
            "matplotlib is not installed; pip install 'sadr-plugin[plot]'"
        ) from None
    return Figure


def save(figure: Any, file: Path) -> None:
    """Write a figure; the same figure gives the same file."""
    from matplotlib import rc_context

    undated = {"Date": None} if file.suffix == ".svg" else None  # the same results, the same file
    with rc_context({"svg.hashsalt": "sadr"}):
        figure.savefig(file, metadata=undated)
