"""Charts of measured values, made with Altair.

Every mark has a sentence as its description. In an SVG, it becomes the mark's label.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EvaluationError

if TYPE_CHECKING:
    from ..drift import Correlation, Head
    from ..evaluation import ArmSummary, Estimate, SequenceSummary
    from ..evaluation._sequence_curves import Mean
    from ..events import Report

Chart = Any
"""An ``altair.Chart`` or a combination of several."""

Charts = Mapping[str, Chart]
"""Charts by name. The name is also the name of a chart's file."""

GREY = "#888888"
COLOURS = {
    "tuned": "#0072b2",
    "stop alone": "#e69f00",
    "SADR alone": "#0072b2",
    "with keep": "#009e73",
    "unedited": GREY,
    "plain": "#d55e00",
    "control": "#e69f00",
    "sadr": "#0072b2",
    "keep": "#cc79a7",
    "sadr+keep": "#009e73",
}
"""The colours of the arms (Okabe and Ito), the same in every chart.

Colour-blind readers can tell them apart.
"""

SPARE = ("#56b4e9", "#8c6bb1", "#a6761d", "#66a61e", "#000000")

WIDTH = 640

POINTS = 600
"""The largest number of points in a scatter plot."""


def save(chart: Chart, file: Path) -> None:
    """Write a chart in the format of the file's suffix.

    The suffix is ``.svg``, ``.png`` or ``.json`` (Vega-Lite). The same chart always gives the same
    file.
    """
    _altair()
    if file.suffix == ".svg":
        file.write_text(svg(chart), encoding="utf-8")
        return
    options = {"scale_factor": 2} if file.suffix == ".png" else {}
    chart.save(str(file), **options)


def svg(chart: Chart, prefix: str = "") -> str:
    """Return a chart as SVG. The same chart always gives the same text.

    Args:
        chart: the chart.
        prefix: the start of every name in the SVG. Names have to be unique in the whole page.
    """
    import vl_convert

    text: str = vl_convert.vegalite_to_svg(chart.to_dict())
    # The renderer numbers names over the whole process, so they are replaced by stable ones.
    for number, name in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', text))):
        own = f"{prefix}name-{number}"
        text = text.replace(f'id="{name}"', f'id="{own}"').replace(f"#{name})", f"#{own})")
        text = text.replace(f'"#{name}"', f'"#{own}"')
    return text


def heads(found: Sequence[Head], title: str, largest: float | None = None) -> Chart:
    """Make a chart of how far each head's attention has moved, layer by head.

    Args:
        found: the heads, in any order.
        title: the title of the chart.
        largest: the divergence, in nats, of the darkest colour. Charts with the same value can be
            compared.
    """
    alt = _altair()
    rows = [
        {
            "layer": head.layer,
            "head": head.head,
            "divergence": head.divergence,
            "label": f"layer {head.layer}, head {head.head}: moved by {head.divergence:.3f} nats; "
            f"to the subject {head.before:.3f} before, {head.now:.3f} after",
        }
        for head in sorted(found, key=lambda head: (head.layer, head.head))
    ]
    top = largest or max(head.divergence for head in found) or 1.0
    columns = 1 + max(head.head for head in found)
    return (
        _chart(alt, rows, title)
        .mark_rect(stroke="#8884", strokeWidth=0.5)
        .encode(
            x=alt.X("head:O", title="head", axis=alt.Axis(labelAngle=0, orient="top")),
            y=alt.Y("layer:O", title="layer"),
            color=alt.Color(
                "divergence:Q",
                title="nats",
                scale=alt.Scale(scheme="oranges", type="sqrt", domain=[0, top], clamp=True),
            ),
            description="label:N",
        )
        .properties(
            width=max(120, min(WIDTH // 2, 22 * columns)),
            height=alt.Step(12),
        )
    )


def steps(reports: Mapping[str, Report]) -> Chart:
    """Make charts of the loss, the terms and the target's probability over the steps of an edit.

    Each arm has its own line.
    """
    alt = _altair()
    rows: list[dict[str, Any]] = [
        {
            "arm": arm,
            "step": step.index,
            "what": what,
            "value": value,
            "label": f"{arm}, step {step.index}: {what} {value:.4g}",
        }
        for arm, report in reports.items()
        for step in report.steps
        for what, value in _of_step(step)
    ]
    panels = list(dict.fromkeys(row["what"] for row in rows))
    charts = [
        _chart(alt, [row for row in rows if row["what"] == what], what)
        .mark_line(point=alt.OverlayMarkDef(size=14))
        .encode(
            x=alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("value:Q", title=None),
            color=_arm_colour(alt, list(reports)),
            description="label:N",
        )
        .properties(width=250, height=150)
        for what in panels
    ]
    return _grid(alt, charts, columns=2)


def _of_step(step: Any) -> Iterator[tuple[str, float]]:
    yield "loss, with its terms", step.loss
    if step.target is not None:
        yield "probability of the target", step.target
    for name, value in step.terms.items():
        yield f"term: {name}", value


def metrics(summaries: Sequence[ArmSummary], title: str) -> Chart:
    """Make a chart of the arms' accuracies, metric by metric, with 95 % intervals.

    Raises:
        EvaluationError: no record was scored in every arm.
    """
    from ..evaluation import SHORT
    from ..evaluation._metrics import WITH_DRS

    alt = _altair()
    rows = [
        {"arm": s.arm, "metric": SHORT[task], **_interval(found, f"{SHORT[task]}, {s.arm}")}
        for s in summaries
        for task in WITH_DRS
        if (found := s.accuracy[task]) is not None
    ]
    if not rows:
        raise EvaluationError(
            "no record was scored in every arm; results.jsonl has the errors of the failed edits"
        )
    arms = [summary.arm for summary in summaries]
    base = _chart(alt, rows, title).encode(
        x=alt.X("metric:N", title=None, sort=None, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("arm:N", sort=arms),
        description="label:N",
    )
    bars = base.mark_bar().encode(
        y=alt.Y("mean:Q", title="right answers, percent", scale=alt.Scale(domain=[0, 100])),
        color=_arm_colour(alt, arms),
    )
    return (bars + _whiskers(base)).properties(width=WIDTH, height=240)


def sequence(
    summary: SequenceSummary, title: str, shown: Sequence[str] | None = None, columns: int = 3
) -> Chart:
    """Make charts of every metric over the number of edits, with 95 % intervals.

    Each arm has its own line.

    Args:
        summary: the summary of the sequence.
        title: the title of the charts.
        shown: the titles of the curves to draw. None for all.
        columns: the number of charts in a row.

    Raises:
        EvaluationError: no checkpoint was reached in every arm.
    """
    from ..evaluation import UNEDITED
    from ..evaluation._sequence_curves import curves

    alt = _altair()
    if not summary.points:
        raise EvaluationError(
            "no checkpoint was reached in every arm; results.jsonl has the errors of the failed "
            "edits; continue the run, or start it again"
        )
    arms = [UNEDITED, *(arm for arm in summary.points[-1].models if arm != UNEDITED)]
    charts = []
    for name, curve in curves().items():
        if shown is not None and name not in shown:
            continue
        percent = name.endswith("percent")
        rows = [
            {"edits": at, "arm": arm, **_interval(value, f"{name}, {arm}, {at}", percent)}
            for point, at in ((point, point.edits) for point in summary.points)
            for arm in point.models
            if (value := curve(point, arm)) is not None
        ]
        if rows:
            charts.append(_curve(alt, rows, name, arms))
    return _grid(alt, charts, columns=columns).properties(title=_title(alt, title))


def under_each_other(charts: Sequence[Chart]) -> Chart:
    """Place several charts in one column."""
    return _altair().vconcat(*charts)


def _curve(alt: Any, rows: list[dict[str, Any]], name: str, arms: Sequence[str]) -> Chart:
    base = _chart(alt, rows, name).encode(
        x=alt.X(
            "edits:Q",
            title="edits made",
            scale=alt.Scale(type="symlog"),
            axis=alt.Axis(values=sorted({row["edits"] for row in rows})),
        ),
        color=_arm_colour(alt, arms),
    )
    percent = name.endswith("percent")
    has_intervals = any("low" in row for row in rows)
    scale = alt.Scale(domain=[0, 100]) if percent else alt.Scale(zero=False)
    band = base.mark_area(opacity=0.12, aria=False).encode(
        y=alt.Y("low:Q", title=None, scale=scale), y2="high:Q"
    )
    line = base.mark_line(point=alt.OverlayMarkDef(size=20)).encode(
        y=alt.Y("mean:Q", title=None, scale=scale), description="label:N"
    )
    return ((band + line) if has_intervals else line).properties(width=180, height=130)


def losses(found: Correlation) -> Chart:
    """Make a scatter plot of the questions' drift and the loss of their right answers.

    Each point is a question. If there are more than `POINTS` questions, only some are drawn.
    """
    alt = _altair()
    apart = -(-len(found.points) // POINTS)
    rows = [
        {"drift": drift, "loss": loss, "label": f"drift {drift:.2f}, loss {loss:.2f} nats"}
        for drift, loss in found.points[::apart]
    ]
    colour = COLOURS.get(found.arm, SPARE[0])
    return (
        _chart(alt, rows, f"{found.kind}, {found.arm}")
        .mark_circle(size=26, opacity=0.7, color=colour)
        .encode(
            x=alt.X("drift:Q", title="drift of the question's attention, nats"),
            y=alt.Y("loss:Q", title="fall of the right answer, nats"),
            description="label:N",
        )
        .properties(width=250, height=180)
    )


def front(rows: Sequence[Mapping[str, Any]], x: str, y: str, title: str) -> Chart:
    """Make a chart of trials by two objectives. A line joins the Pareto front.

    Args:
        rows: the trials. Each has the objectives, a ``label``, a ``kind`` for its colour, and
            ``best``: whether it is on the Pareto front.
        x: the name of the first objective, which is also the title of its axis.
        y: the same for the second objective.
        title: the title of the chart.
    """
    alt = _altair()
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    data = [{**row, "x": row[x], "y": row[y]} for row in rows]
    scale = alt.Scale(zero=False, padding=12)
    encoded = {
        "x": alt.X("x:Q", title=x, scale=scale),
        "y": alt.Y("y:Q", title=y, scale=scale),
    }
    line = (
        _chart(alt, [row for row in data if row["best"]], title)
        .mark_line(interpolate="step-after", color=GREY, strokeDash=[4, 3], aria=False)
        .encode(**encoded)
    )
    points = (
        _chart(alt, data, title)
        .mark_point(filled=True, size=60)
        .encode(
            **encoded,
            color=_arm_colour(alt, kinds, title="tried"),
            opacity=alt.condition("datum.best", alt.value(1.0), alt.value(0.45)),
            description="label:N",
        )
    )
    return (line + points).properties(width=WIDTH - 160, height=300)


def _interval(found: Estimate | Mean | float, label: str, percent: bool = True) -> dict[str, Any]:
    """Return a value as a row of data, with its interval and a sentence."""
    if isinstance(found, float | int):
        return {"mean": found, "label": f"{label}: {found:.3g}"}
    mean = f"{found.mean:.1f} percent" if percent else f"{found.mean:.3g}"
    if found.low is None or found.high is None:
        return {"mean": found.mean, "label": f"{label}: {mean}"}
    form = ".0f" if percent else ".3g"
    return {
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "label": f"{label}: {mean}, interval {found.low:{form}} to {found.high:{form}}",
    }


def _whiskers(base: Chart) -> Chart:
    return base.mark_rule(color="#555", aria=False).encode(y="low:Q", y2="high:Q")


def _arm_colour(alt: Any, arms: Sequence[str], title: str | None = None) -> Any:
    spare = iter(SPARE * len(arms))
    colours = [COLOURS.get(arm) or next(spare) for arm in arms]
    scale = alt.Scale(domain=list(arms), range=colours)
    return alt.Color(
        "arm:N" if title is None else "kind:N",
        title=title,
        scale=scale,
        legend=alt.Legend(orient="bottom", labelLimit=400, columns=4, symbolOpacity=1),
    )


def _chart(alt: Any, rows: Sequence[Mapping[str, Any]], title: str) -> Chart:
    return alt.Chart(alt.Data(values=list(rows)), title=_title(alt, title))


def _title(alt: Any, text: str) -> Any:
    return alt.TitleParams(text, anchor="start", fontWeight="normal", fontSize=13)


def _grid(alt: Any, charts: Sequence[Chart], columns: int) -> Chart:
    """Place the charts in rows."""
    return alt.concat(*charts, columns=columns)


def expect_drawing() -> None:
    """Check in advance that charts can be drawn.

    Raises:
        EvaluationError: a package for drawing is not installed.
    """
    _altair()


def _altair() -> Any:
    """Return Altair. It raises the error of `expect_drawing`."""
    try:
        import altair
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise EvaluationError(
            f"{error.name} is not installed; pip install 'sadr-plugin[report]'"
        ) from None
    return altair
