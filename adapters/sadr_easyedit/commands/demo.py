"""``sadr demo``: EasyEdit's ROME on a real model, without and with SADR, side by side."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sadr_plugin._version import versions
from sadr_plugin.commands._options import (
    JsonFile,
    PngFolder,
    ReportFile,
    SvgFolder,
    expect_only_subject,
    split_fact,
)
from sadr_plugin.commands._output import Output
from sadr_plugin.commands.terminal import progress, silence

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from torch import nn

    from sadr_plugin.drift import AttentionMap
    from sadr_plugin.evaluation import Question, Record
    from sadr_plugin.events import Report
    from sadr_plugin.pages import Page

SUBJECT = "The Eiffel Tower"
NEIGHBOURS = (
    ("The Louvre is located in the city of", "Paris"),
    ("The capital of Japan is", "Tokyo"),
)
ARMS = ("before", "plain", "sadr")


@dataclass(frozen=True)
class Settings:
    """One edit and its settings.

    With ``covariance``, ROME uses the layer statistics, and leaves the keys of other facts alone.
    """

    subject: str
    prompt: str
    target: str
    layer: int
    gamma: float
    steps: int
    seed: int
    covariance: bool = True


@dataclass
class Row:
    """A question with its kind and, for each arm, the probabilities (right, edited in)."""

    kind: str
    question: Question
    probabilities: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The result of one edit.

    ``drift`` is the penalty at γ = 1. It is measured on the edited model with the loop's prompts.
    """

    steps: int
    drift: float
    seconds: float


@dataclass(frozen=True)
class Demonstration:
    """Both edits and what was measured.

    Attributes:
        settings: the settings of the edits.
        rows: the questions, with the probabilities of their answers.
        outcomes: the result of each edit, by arm.
        maps: attention at the prompts, before the edit and in each arm.
        reports: the steps of each edit, by arm.
    """

    settings: Settings
    rows: list[Row]
    outcomes: dict[str, Outcome]
    maps: Sequence[AttentionMap]
    reports: dict[str, Report]

    def as_data(self) -> dict[str, Any]:
        """Return the table as plain data, with the versions of Python and the packages."""
        return {
            "settings": asdict(self.settings),
            "rows": [
                {
                    "kind": row.kind,
                    "prompt": row.question.prompt,
                    "right": row.question.right,
                    "edited_in": row.question.wrong,
                    **{
                        arm: dict(zip(("right", "edited_in"), row.probabilities[arm], strict=True))
                        for arm in ARMS
                    },
                }
                for row in self.rows
            ],
            "arms": {name: asdict(arm) for name, arm in self.outcomes.items()},
            "versions": {
                "python": platform.python_version(),
                **versions(("sadr-plugin", "torch", "transformers")),
            },
        }

    def page(self) -> Page:
        """Return the results as a page."""
        from sadr_plugin.pages import Page, steps

        settings = self.settings
        page = Page(
            f"{settings.prompt.format(settings.subject)} → {settings.target}",
            f"EasyEdit's ROME in SmolLM2-135M, layer {settings.layer}, without SADR and with it "
            f"(γ = {settings.gamma:g}).",
        )
        page.heading("The edit")
        table = [["", "prompt", "right", "before", "plain ROME", "with SADR"]]
        bad: dict[tuple[int, int], str] = {}
        for number, row in enumerate(self.rows):
            pairs = [row.probabilities[arm] for arm in ARMS]
            cells = [f"{right:.3f} / {new:.3f}" for right, new in pairs]
            table.append([row.kind, row.question.prompt, row.question.right, *cells])
            if row.kind not in ("edit", "paraphrase"):
                lost = [place for place, (right, new) in enumerate(pairs) if right <= new]
                bad |= dict.fromkeys([(number, 3 + place) for place in lost], "bad")
        page.table(table, "Probability of the right answer / of the new object.", bad)
        page.table(
            [
                ["", "plain ROME", "with SADR"],
                *(
                    [name, *(f"{getattr(self.outcomes[arm], name):.3g}" for arm in ARMS[1:])]
                    for name in ("steps", "drift", "seconds")
                ),
            ]
        )
        page.heading("Attention, head by head")
        page.text(
            "Each square is a head. Its colour shows how far its row of attention at the prompt's "
            "last token has moved, KL(before ‖ after). The row of one head is shown below: point "
            "at a square, or walk with the arrow keys."
        )
        page.attention(self.maps, ARMS[1:])
        page.heading("Step by step")
        page.chart("steps", steps(self.reports))
        return page


def rows_to_fill(settings: Settings, right: str, relations: list[tuple[str, str]]) -> list[Row]:
    """Return the questions for before and after the edit.

    The edit should change the answers about the edited fact, and no others.
    """
    from sadr_plugin.evaluation import Question

    fact = settings.prompt.format(settings.subject)
    statement = f"{fact} {settings.target}."
    paraphrase = f"Everybody knows it. {fact}"
    if settings.subject == SUBJECT:
        paraphrase = "Where is the Eiffel Tower? It is in the city of"
        relations = relations or [
            ("The Eiffel Tower was built in the year", "1889"),
            ("The Eiffel Tower is made of wrought", "iron"),
        ]
    asked = [("edit", fact, right), ("paraphrase", paraphrase, right)]
    asked += [("relation", *relation) for relation in relations]
    asked += [("neighbour", *neighbour) for neighbour in NEIGHBOURS]
    asked += [
        ("distracted", f"{statement} {prompt}", answer)
        for prompt, answer in (*NEIGHBOURS, ("Big Ben is located in the city of", "London"))
    ]
    return [Row(kind, Question(prompt, answer, settings.target)) for kind, prompt, answer in asked]


def demo(
    subject: Annotated[str, typer.Option(help="Subject of the edited fact.")] = SUBJECT,
    prompt: Annotated[
        str, typer.Option(help="The fact up to its object, with {} in place of the subject.")
    ] = "{} is located in the city of",
    target: Annotated[str, typer.Option(help="New object of the fact.")] = "Rome",
    right: Annotated[
        str, typer.Option(help="True object of the fact. The table shows its probability.")
    ] = "Paris",
    relation: Annotated[
        list[str] | None,
        typer.Option(help='Another fact about the subject, as "PROMPT=ANSWER". Repeatable.'),
    ] = None,
    layer: Annotated[int, typer.Option(help="Layer that ROME rewrites.", min=0, max=28)] = 9,
    gamma: Annotated[float, typer.Option(help="SADR's weight γ.", min=0)] = 0.04,
    steps: Annotated[
        int,
        typer.Option(
            help="Optimisation steps of each edit. Below about 15 steps the edit has little "
            "effect, and there is nothing to restrict.",
            min=2,
        ),
    ] = 40,
    seed: Annotated[int, typer.Option(help="Seed of ROME's random context prompts.")] = 0,
    covariance: Annotated[
        bool,
        typer.Option(
            help="Edit with layer statistics. They are computed on first use (about 100 s). "
            "Without them, ROME also changes plain neighbours, and SADR cannot prevent that."
        ),
    ] = True,
    json_file: JsonFile = None,
    report: ReportFile = None,
    svg: SvgFolder = None,
    png: PngFolder = None,
) -> None:
    """Edit a fact in SmolLM2-135M, without SADR and with it."""
    from rich.console import Console

    from sadr_plugin import Prompt
    from sadr_plugin.evaluation import Record

    expect_only_subject("--prompt", prompt)
    Prompt.from_template(prompt, subject)  # report a wrong prompt before the model loads
    output = Output(json_file, report, svg, png)
    output.check()
    settings = Settings(subject, prompt, target.strip(), layer, gamma, steps, seed, covariance)
    rows = rows_to_fill(
        settings, right, [split_fact("--relation", text) for text in relation or []]
    )
    record = Record(
        "demo",
        subject,
        prompt,
        settings.target,
        right,
        neighbours=tuple(row.question for row in rows if row.kind == "neighbour"),
        relations=tuple(row.question for row in rows if row.kind == "relation"),
    )
    console = Console(file=sys.stdout)
    shown = run(settings, record, rows, console)
    show(console, settings, rows, shown.outcomes)
    output.write(shown, console)


def run(settings: Settings, record: Record, rows: list[Row], console: Console) -> Demonstration:
    """Make both edits from the same state of the model, fill the rows, and show progress."""
    from sadr_plugin import DriftProbe, enabled, reports
    from sadr_plugin.devices import cuda_or_cpu
    from sadr_plugin.drift import MapReader
    from sadr_plugin.evaluation import Arm, UneditedWeights, counted_steps, edited

    from .. import smollm2
    from ..corpus import python_manual
    from ..editing import EasyEditEditor
    from ..environment import import_text_only
    from ..statistics import Job, compute

    outcomes: dict[str, Outcome] = {}
    steps_of: dict[str, Report] = {}
    with progress(console) as bars, enabled():
        loading = bars.add_task("SmolLM2-135M (converted on first use)", total=1)
        import_text_only()
        model, tokenizer = smollm2.load()
        bars.update(loading, completed=1)
        hparams = smollm2.rome_hparams(settings.layer, settings.steps, settings.covariance)
        if settings.covariance:
            compute(Job(model, tokenizer, hparams), python_manual(), bars)
        with cuda_or_cpu(), silence():
            editor = EasyEditEditor(model, tokenizer, hparams, settings.seed)
            unedited = UneditedWeights(model, editor.weights)
            probe = DriftProbe(editor.seen(record))
            reader = MapReader(editor, record)
            _ask(rows, "before", model, tokenizer)
            # γ = 0 restricts nothing, but each forward still skips what cannot change.
            for arm in (Arm("plain", {"gamma": 0}), Arm("sadr", {"gamma": settings.gamma})):
                task = bars.add_task(f"ROME, {arm.name}", total=settings.steps)
                watch = counted_steps(model, partial(_advance, bars, task))
                started = time.perf_counter()
                with (
                    watch as counted,
                    reports() as found,
                    edited(editor, unedited, [record], arm.sadr),
                ):
                    seconds = time.perf_counter() - started
                    steps = counted()
                    _ask(rows, arm.name, model, tokenizer)
                    outcomes[arm.name] = Outcome(steps, probe.drift(), seconds)
                    reader.read(arm.name)
                    steps_of[arm.name] = found[-1]
    return Demonstration(settings, rows, outcomes, reader.maps(), steps_of)


def show(
    console: Console, settings: Settings, rows: list[Row], outcomes: dict[str, Outcome]
) -> None:
    """Show the table: probabilities before and after, and each arm's steps, drift and time."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    edit = f"{settings.prompt.format(settings.subject)} → {settings.target}"
    table = Table(
        box=box.SIMPLE,  # all columns fit into 80 characters if the prompt is folded
        padding=(0, 0, 0, 1),
        title=escape(f"{edit}, layer {settings.layer}, γ = {settings.gamma:g}"),
        caption="probability of the right answer/of the new object\nneighbour: a fact about "
        "something else; distracted: one asked after the edited\nfact has been stated; drift: "
        "the penalty, on the edited model",
    )
    statement = f"{settings.prompt.format(settings.subject)} {settings.target}."
    table.add_column("")
    table.add_column("prompt", overflow="fold", min_width=12)
    table.add_column("right")
    for name in ("before", "plain ROME", "with SADR"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        question = row.question
        cells = [f"{row.probabilities[arm][0]:.3f}/{row.probabilities[arm][1]:.3f}" for arm in ARMS]
        prompt = question.prompt.replace(f"{statement} ", f"… {settings.target}. ")
        table.add_row(row.kind, escape(prompt), escape(question.right), *cells)
    table.add_section()
    plain, sadr = outcomes["plain"], outcomes["sadr"]
    table.add_row("", "steps", "", "", str(plain.steps), str(sadr.steps))
    table.add_row("", "drift (at γ = 1)", "", "", f"{plain.drift:.3f}", f"{sadr.drift:.3f}")
    table.add_row("", "seconds", "", "", f"{plain.seconds:.1f}", f"{sadr.seconds:.1f}")
    console.print(table)


def _ask(rows: list[Row], arm: str, model: nn.Module, tokenizer: Any) -> None:
    from sadr_plugin.evaluation import answer_probability

    for row in rows:
        asked = row.question
        row.probabilities[arm] = (
            answer_probability(model, tokenizer, asked.prompt, asked.right),
            answer_probability(model, tokenizer, asked.prompt, asked.wrong),
        )


def _advance(progress: Progress, task: TaskID, steps: int) -> None:
    progress.update(task, completed=steps)
