"""``sadr eval``: measure an editor as the paper does, without SADR and with it."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..adapter import EditorOptions
from ..errors import ConfigError
from . import _run_folder
from ._options import (
    DType,
    Engine,
    Engines,
    HparamsFile,
    JsonFile,
    Limit,
    Matmul,
    PngFolder,
    Precision,
    ReportFile,
    Resume,
    SkipBad,
    SvgFolder,
    Threads,
    TrustRemoteCode,
    Workers,
)
from ._output import Output
from ._run_setup import Chosen, Place, about_run, make_evaluator, read_summary
from .terminal import progress, silence

if TYPE_CHECKING:
    from rich.console import Console

    from ..evaluation import Item
    from ._eval_plans import Plan


class Modes(str, Enum):
    """How edits follow one another."""

    single = "single"
    batch = "batch"
    sequence = "sequence"


def evaluate(
    hparams_file: HparamsFile,
    data: Annotated[
        str,
        typer.Option(
            help='"builtin" (facts that SmolLM2 knows), or a file of records in the format of '
            "CounterFact, KnowEdit, ZsRE or the official SADR code. The format is recognised from "
            "the content."
        ),
    ],
    limit: Limit = None,
    seed: Annotated[
        int,
        typer.Option(
            help="Seed for the choice of records, the context prompts and the generated texts."
        ),
    ] = 0,
    mode: Annotated[
        Modes,
        typer.Option(
            help="single: each edit is undone before the next. batch: all edits are made in one "
            "call of the editor. sequence: edits are made one after another, and none is undone."
        ),
    ] = Modes.single,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="With --mode batch or sequence: the number of edits in one call of the editor.",
            min=1,
        ),
    ] = None,
    checkpoints: Annotated[
        str,
        typer.Option(
            help="With --mode batch or sequence: the numbers of edits after which all edits so far "
            "are evaluated, separated by commas. They are always evaluated at the end. "
            "[default: 1,10,25,50,100,250,500,1000]",
            show_default=False,
        ),
    ] = "",
    text: Annotated[
        str | None,
        typer.Option(
            help="With --mode batch or sequence: the text whose perplexity is measured. A file, or "
            '"python" for Python\'s own manual. [default: python]'
        ),
    ] = None,
    arms: Annotated[
        str,
        typer.Option(
            help="Arms, separated by commas: plain (SADR off), control (γ = 0, stop_at alone), "
            "sadr, keep (γ = 0, with the file's keep or the default one), sadr+keep. Only the last "
            "two use the file's keep. [default: plain,sadr, and sadr+keep if the file has keep]",
            show_default=False,
        ),
    ] = "",
    gamma: Annotated[
        list[float] | None,
        typer.Option(
            help="SADR's weight γ, instead of the hparams file's. Repeatable: each value makes an "
            "arm.",
            min=0,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("sadr-eval"),
    resume: Resume = False,
    retry_failed: Annotated[
        bool, typer.Option(help="With --resume: retry the edits that failed.")
    ] = False,
    skip_bad: SkipBad = False,
    fluency: Annotated[bool, typer.Option(help="Generate texts to measure fluency.")] = True,
    engine: Engine = Engines.local,
    workers: Workers = None,
    threads: Threads = None,
    dtype: DType = None,
    trust_remote_code: TrustRemoteCode = False,
    matmul: Matmul = Precision.highest,
    json: JsonFile = None,
    report: ReportFile = None,
    svg: SvgFolder = None,
    png: PngFolder = None,
) -> None:
    """Measure edits as the paper does, without SADR and with it.

    The metrics are the paper's: efficacy, generalisation, specificity, fluency and drift.
    """
    from rich.console import Console

    from .. import enabled
    from ..evaluation import LocalEngine
    from ._arms import arms as parse_arms
    from ._arms import expecting_results
    from ._eval_plans import SequencePlan, Settings, SinglePlan

    output = Output(json, report, svg, png)
    output.check()
    chosen = Chosen.by(data, limit, seed, skip_bad)
    summary = read_summary(hparams_file)
    options = EditorOptions(seed, dtype and dtype.value, trust_remote_code)
    chosen_arms = parse_arms(arms, summary.sadr, gamma or [])
    place = Place(engine, workers, threads, matmul)
    about = {
        **about_run(mode.value, summary, chosen, options, place),
        "arms": {arm.name: arm.sadr for arm in chosen_arms},
        "fluency": fluency,
    }
    settings = Settings(chosen_arms, chosen.records, seed, fluency, skip_bad)
    plan: Plan
    if mode is Modes.single:
        if batch_size is not None or checkpoints or text is not None:
            raise ConfigError(
                "--batch-size, --checkpoints, --text: for --mode batch or sequence only"
            )
        plan = SinglePlan(settings, retry_failed)
    else:
        if retry_failed:
            raise ConfigError("--retry-failed: works only with --mode single")
        size = batch_size or (len(chosen.records) if mode is Modes.batch else 1)
        plan = SequencePlan(settings, size, checkpoints, text or "python")
    if retry_failed and not resume:
        raise ConfigError("--retry-failed: works only with --resume")
    about |= plan.about
    make = partial(make_evaluator, hparams_file, options, plan.evaluator)
    console = Console(file=sys.stdout)
    title = f"{summary.editor}, {len(chosen.records)} records of {chosen.file.name}"
    with enabled(), place.torch_settings():
        cluster = place.cluster(make, [arm.name for arm in chosen_arms])
        _run_folder.claim(out, about, resume)
        with silence():
            plan.start(cluster or LocalEngine(make()), out)
        with _shown(console, title, plan) as show, silence():
            plan.run(show)
        machine = _run_folder.machine()
    where = {"engine": engine.value, "workers": workers}
    context = {**about, "skipped": chosen.found.skipped, **where, **machine}
    plan.write(out, context, title, console)
    if json is not None and json.resolve() != (out / "summary.json").resolve():
        shutil.copyfile(out / "summary.json", json)
    for result in plan.results:
        if result.error is not None:
            failed = f"failed: record {result.record}, {result.arm}: {result.error}"
            console.print(failed, markup=False)
    for skipped in chosen.found.skipped:
        console.print(f"skipped: {skipped}", markup=False)
    for group, count in chosen.found.not_asked.items():
        console.print(f"not asked: {group}, in {count} records of the file", markup=False)
    console.print(f"in {out.absolute()}", markup=False)
    with expecting_results(plan.results, [arm.name for arm in chosen_arms]):
        if output.wants_page:
            output.write_page(plan.page(title, context), console)


@contextlib.contextmanager
def _shown(console: Console, title: str, plan: Plan) -> Iterator[Callable[[Item], None]]:
    """Show a progress bar and the table so far. Yield the function that updates both."""
    from rich.console import Group
    from rich.live import Live

    bar = progress(console, remaining=True)
    task = bar.add_task("records × arms", total=plan.total, completed=plan.done)
    with Live(bar, console=console) as live:

        def show(_: Item) -> None:
            bar.advance(task)
            table = plan.table(title)
            if table is not None:
                live.update(Group(table, bar))

        yield show
        live.update(bar)
