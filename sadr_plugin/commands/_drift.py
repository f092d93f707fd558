"""``sadr drift``: where an edit moves attention, and what that does."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..adapter import EditorOptions
from ..errors import ConfigError
from . import _run_folder
from ._options import (
    DType,
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
    layer_range,
    split_fact,
)
from ._options import Engine as EngineOption
from ._output import Output
from ._running import Chosen, Place, about_run, make_editor, read_summary
from .environment import progress, silence

if TYPE_CHECKING:
    from rich.console import Console

    from ..drift import CausalEvaluator, Variant
    from ..evaluation import Arm, Engine, Question, Record
    from ._drift_findings import DriftOfEdit, DriftOfRecords


def drift(
    hparams_file: HparamsFile,
    subject: Annotated[str, typer.Option(help="What the edited fact is about.")] = "",
    prompt: Annotated[
        str, typer.Option(help='The fact up to its object, {} for the subject: "{} is in".')
    ] = "",
    target: Annotated[str, typer.Option(help="The new object.")] = "",
    right: Annotated[str, typer.Option(help="The true object.")] = "",
    relation: Annotated[
        list[str] | None,
        typer.Option(help='Another fact about the subject, "PROMPT=ANSWER"; repeatable.'),
    ] = None,
    neighbour: Annotated[
        list[str] | None,
        typer.Option(help='A fact about something else, "PROMPT=ANSWER"; repeatable.'),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help='Instead of one edit: many, of "builtin" or a file, as for sadr eval.',
            show_default=False,
        ),
    ] = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Of the choice and the contexts.")] = 0,
    arms: Annotated[
        str, typer.Option(help="As for sadr eval. [default: plain,sadr]", show_default=False)
    ] = "",
    edited: Annotated[
        str | None,
        typer.Option(
            help="Instead of editing: a model edited before, a folder or a name; the hparams' is "
            "the unedited one.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        list[int] | None,
        typer.Option(
            help="Exchange attention in so many heads alone, the most drifted; repeatable.", min=1
        ),
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(help="Exchange it in these layers alone, such as 6-15; repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(help="With --data: folder for the results.")] = Path(
        "sadr-drift"
    ),
    resume: Resume = False,
    skip_bad: SkipBad = False,
    engine: EngineOption = Engines.local,
    workers: Workers = None,
    threads: Threads = None,
    dtype: DType = None,
    trust_remote_code: TrustRemoteCode = False,
    matmul: Matmul = Precision.highest,
    json_file: JsonFile = None,
    report: ReportFile = None,
    svg: SvgFolder = None,
    png: PngFolder = None,
) -> None:
    """Show where an edit moves attention, and what that does.

    Of one edit, or of many with --data. Which heads drift; whether answers are lost where attention
    has drifted; and the causal test: the unedited model's attention put into the edited model, and
    the other way round.
    """
    from rich.console import Console

    from .. import enabled
    from ..drift import Variant, arm_names
    from ..evaluation import Arm, Record
    from ._arms import arms as parse_arms

    single: dict[str, object] = {
        "--subject": subject,
        "--prompt": prompt,
        "--target": target,
        "--right": right,
        "--relation": relation,
        "--neighbour": neighbour,
    }
    many: dict[str, object] = {
        "--limit": limit,
        "--resume": resume,
        "--skip-bad": skip_bad,
        "--engine": engine is not Engines.local,
        "--workers": workers,
    }
    if data is None and not (subject and prompt and target):
        raise ConfigError("give either --subject, --prompt and --target, or --data")
    for option, value in (many if data is None else single).items():
        if value:
            mode = "with --data" if data is None else "without --data"
            raise ConfigError(f"{option}: only {mode}")
    output = Output(json_file, report, svg, png)
    output.check()
    variants = [Variant(), *(Variant(top=count) for count in top or [])]
    variants += [Variant(window=layer_range("--window", layers)) for layers in window or []]
    if len(set(variants)) < len(variants):
        raise ConfigError("--top, --window: expected each once")
    summary = read_summary(hparams_file)
    # γ = 0 restricts nothing: the plain edit, whose steps are seen.
    chosen = [
        Arm(arm.name, arm.sadr or {"gamma": 0.0})
        for arm in parse_arms(arms or "plain,sadr", summary.sadr, [])
    ]
    if edited is not None:
        if arms:
            raise ConfigError("--arms: with --edited there is but one, the model edited before")
        chosen = [Arm("edited", None)]
    options = EditorOptions(seed, dtype and dtype.value, trust_remote_code)
    place = Place(engine, workers, threads, matmul)
    make = partial(_make, hparams_file, options, edited, chosen, variants, skip_bad)
    console = Console(file=sys.stdout)
    with enabled(), place.torch_settings():
        if data is None:
            edit = Record("edit", subject, prompt, target.strip(), right.strip())
            record = _with_questions(edit, relation or [], neighbour or [])
            findings: DriftOfEdit | DriftOfRecords = _of_one(make, record, console)
        else:
            records = Chosen.by(data, limit, seed, skip_bad)
            about = {
                **about_run("drift", summary, records, options, place),
                "arms": {arm.name: arm.sadr for arm in chosen},
                "edited": edited,
                "variants": [asdict(variant) for variant in variants],
            }
            cluster = place.cluster(make, arm_names([arm.name for arm in chosen], variants))
            _run_folder.claim(out, about, resume)
            findings = _of_many(cluster, make, records.records, out, console)
    findings.show(console)
    output.write(findings, console)


def _make(
    hparams_file: Path,
    options: EditorOptions,
    edited: str | None,
    arms: Sequence[Arm],
    variants: Sequence[Variant],
    skip_bad: bool,
) -> CausalEvaluator:
    from ..drift import CausalEvaluator, OtherModel
    from ..evaluation import load_model

    editor = make_editor(hparams_file, options)
    if edited is not None:
        with silence():
            other, _ = load_model(edited, options, device="cpu")
        editor = OtherModel(editor, other)
    return CausalEvaluator(editor, arms, variants, options.seed, skip_bad)


def _of_one(make: Callable[[], CausalEvaluator], record: Record, console: Console) -> DriftOfEdit:
    """Look at a single edit."""
    from .. import reports
    from ..evaluation._single import RecordTask
    from ._drift_findings import DriftOfEdit

    with console.status("loading the model"), silence():
        evaluator = make()
    with (
        _bar(console, f"{record.prompt} → {record.target_new}", 1 + len(evaluator.arms)) as advance,
        silence(),
        reports() as found,
    ):
        results = []
        for result in evaluator.items(RecordTask(record)):
            results.append(result)
            advance(result)
        evaluator.finish()
    for result in results:
        if result.error is not None:
            raise ConfigError(f"{result.arm}: {result.error}")
    edits = evaluator.edited_arms
    steps = dict(zip(edits, found, strict=True)) if len(found) == len(edits) else {}
    return DriftOfEdit(record, results, edits, evaluator.maps, steps)


def _of_many(
    cluster: Engine | None,
    make: Callable[[], CausalEvaluator],
    records: Sequence[Record],
    out: Path,
    console: Console,
) -> DriftOfRecords:
    """Look at many edits."""
    from ..evaluation import EvaluationRun, LocalEngine
    from ._drift_findings import DriftOfRecords

    with console.status("loading the model"), silence():
        engine = cluster or LocalEngine(make())
    run = EvaluationRun(engine, out / "results.jsonl")
    total = len(records) * (1 + len(engine.arms))
    with _bar(console, "records × arms", total, len(run.results)) as advance, silence():
        run.run(records, advance)
    console.print(f"in {out.absolute()}", markup=False)
    return DriftOfRecords(run.results, engine.arms)


@contextlib.contextmanager
def _bar(
    console: Console, text: str, total: int, done: int = 0
) -> Iterator[Callable[[object], None]]:
    """A bar; yields what moves it on."""
    from rich.markup import escape

    with progress(console, remaining=True) as bar:
        task = bar.add_task(escape(text), total=total, completed=done)
        yield lambda _: bar.advance(task)


def _with_questions(record: Record, relations: Sequence[str], neighbours: Sequence[str]) -> Record:
    """The record with questions: those given, or what the built-in records ask of its subject."""
    from ..evaluation import BUILTIN, load

    builtin = load(BUILTIN).records
    same = [r for r in builtin if r.subject.casefold() == record.subject.casefold()]
    own = _questions("--relation", relations, record)
    others = _questions("--neighbour", neighbours, record)
    own = own or tuple(q for r in same[:1] for q in r.relations)
    others = others or (same or builtin)[0].neighbours
    edited = [r for r in same if r.template == record.template]
    true = record.target_true or (edited[0].target_true if edited else "")
    if not true:
        raise ConfigError(
            "--right: say what the true object is, against which the new one is weighed"
        )

    def to_keep(questions: Sequence[Question]) -> tuple[Question, ...]:
        """Weighed against this edit's new object; without the edited fact itself."""
        kept = [q for q in questions if q.prompt != record.prompt and q.right != record.target_new]
        return tuple(replace(q, wrong=record.target_new) for q in kept)

    return replace(record, target_true=true, relations=to_keep(own), neighbours=to_keep(others))


def _questions(option: str, texts: Sequence[str], record: Record) -> tuple[Question, ...]:
    from ..evaluation import Question

    return tuple(Question(*split_fact(option, text), record.target_new) for text in texts)
