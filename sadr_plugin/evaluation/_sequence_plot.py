"""A picture of edits that add up: every metric over the number of edits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import EvaluationError
from ._metrics import SHORT
from ._plot import figure_class, save
from ._results import UNEDITED
from ._sequence_summary import Point, SequenceSummary
from ._sequence_tables import UNRELATED_SHORT
from ._significance import Estimate
from ._summary import IN_TABLE

COLUMNS = 4

Curve = Callable[[Point, str], Estimate | float | None]
"""What a panel shows of an arm at a checkpoint."""


def draw_sequence(file: Path, summary: SequenceSummary, title: str) -> None:
    """Draw a panel for each metric, a line for each arm, with 95 % intervals.

    Args:
        file: where to, in the format its suffix names, such as ``.svg`` or ``.png``.
        summary: what is drawn; a metric that no record has a question for is left out.
        title: what stands above.

    Raises:
        EvaluationError: matplotlib is not installed, or there is nothing to draw.
    """
    new_figure = figure_class()
    if not summary.points:
        raise EvaluationError("no checkpoint was reached in every arm")
    drawn = [(name, curve) for name, curve in panels().items() if _is_drawn(summary, curve)]
    rows = -(-len(drawn) // COLUMNS)
    figure = new_figure(figsize=(2.9 * COLUMNS, 2.4 * rows + 0.8), layout="constrained")
    all_axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes, (name, curve) in zip(all_axes, drawn, strict=False):
        draw_panel(axes, summary, curve)
        axes.set_title(name, fontsize="medium")
    for axes in all_axes[len(drawn) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize="medium")
    figure.supxlabel("edits made", fontsize="medium")
    lines, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
    save(figure, file)


def draw_panel(axes: Any, summary: SequenceSummary, curve: Curve) -> None:
    """Draw a line for each arm over the number of edits, with 95 % intervals where there are some.

    Args:
        axes: matplotlib's, to draw on.
        summary: what is drawn.
        curve: what of it.
    """
    for number, arm in enumerate(summary.points[-1].models):
        found = [(p.edits, value) for p in summary.points if (value := curve(p, arm)) is not None]
        if not found:
            continue
        places = [edits for edits, _ in found]
        estimates = [value for _, value in found if isinstance(value, Estimate)]
        colour = "grey" if arm == UNEDITED else f"C{number}"
        if estimates:
            axes.plot(places, [e.mean for e in estimates], ".-", color=colour, label=arm)
            low = [e.mean if e.low is None else e.low for e in estimates]
            high = [e.mean if e.high is None else e.high for e in estimates]
            axes.fill_between(places, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.set_ylim(-3, 103)
        else:
            axes.plot(places, [v for _, v in found], ".-", color=colour, label=arm)
    if len(summary.points) > 1:
        axes.set_xscale("log")
        axes.set_xticks([p.edits for p in summary.points], [p.edits for p in summary.points])
        axes.minorticks_off()


def accuracy(task: str) -> Curve:
    """The share of right answers, percent."""

    def curve(point: Point, arm: str) -> Estimate | None:
        return next((a.accuracy[task] for a in point.arms if a.arm == arm), None)

    return curve


def panels() -> dict[str, Curve]:
    """What is drawn, by the title of its panel."""

    def unrelated(kind: str) -> Curve:
        return lambda point, arm: point.models[arm].unrelated[kind]

    def drift(point: Point, arm: str) -> float | None:
        return next((a.drift for a in point.arms if a.arm == arm and arm != UNEDITED), None)

    return {
        **{f"{SHORT[task]}, percent": accuracy(task) for task in IN_TABLE},
        **{f"{short}, percent": unrelated(kind) for kind, short in UNRELATED_SHORT.items()},
        "drift": drift,
        "perplexity": lambda point, arm: point.models[arm].perplexity,
        "change of the weights": lambda point, arm: point.models[arm].change,
    }


def _is_drawn(summary: SequenceSummary, curve: Curve) -> bool:
    return any(curve(p, arm) is not None for p in summary.points for arm in p.models)
