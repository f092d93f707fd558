"""``sadr drift``: where an edit moves attention, and what effect that has."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
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
    expect_only_subject,
    layer_range,
    split_fact,
)
from ._options import Engine as EngineOption
from ._output import Output
from ._run_setup import Chosen, Place, about_run, make_editor, read_summary
from .terminal import progress, silence

if TYPE_CHECKING:
    from rich.console import Console

    from ..drift import CausalEvaluator, Variant
    from ..evaluation import Arm, Engine, Question, Record
    from ._drift_findings import DriftOfEdit, DriftOfRecords


def drift(
    hparams_file: HparamsFile,
    subject: Annotated[str, typer.Option(help="Subject of the edited fact.")] = "",
    prompt: Annotated[
        str,
        typer.Option(
            help='The fact up to its object, with {} in place of the subject, such as "{} is in".'
        ),
    ] = "",
    target: Annotated[str, typer.Option(help="New object of the fact.")] = "",
    right: Annotated[str, typer.Option(help="True object of the fact.")] = "",
    relation: Annotated[
        list[str] | None,
        typer.Option(help='Another fact about the subject, as "PROMPT=ANSWER". Repeatable.'),
    ] = None,
    neighbour: Annotated[
        list[str] | None,
        typer.Option(help='A fact about another subject, as "PROMPT=ANSWER". Repeatable.'),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help='Records for many edits instead of one: "builtin" or a file, as for sadr eval.',
            show_default=False,
        ),
    ] = None,
    limit: Limit = None,
    seed: Annotated[
        int, typer.Option(help="Seed for the choice of records and the context prompts.")
    ] = 0,
    arms: Annotated[
        str,
        typer.Option(help="Arms, as for sadr eval. [default: plain,sadr]", show_default=False),
    ] = "",
    edited: Annotated[
        str | None,
        typer.Option(
            help="A model that is already edited (a folder or a name), instead of an edit. The "
            "hparams file names the unedited model.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        list[int] | None,
        typer.Option(
            help="Exchange attention only in this number of heads, the most drifted. Repeatable.",
            min=1,
        ),
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(help="Exchange attention only in these layers, such as 6-15. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="With --data: the folder for the results. [default: sadr-drift]",
            show_default=False,
        ),
    ] = None,
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
    """Show where an edit moves attention, and what effect that has.

    The command examines one edit, or many with --data. It shows which heads drift, and whether
    answers are lost where attention has drifted. It also runs the causal test: it puts the unedited
    model's attention into the edited model, and the other way round.
    """
    from rich.console import Console

    from .. import enabled
    from ..drift import Variant, arm_names
    from ..evaluation import Arm, Record
    from ._arms import arms as parse_arms
    from ._arms import expecting_results

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
        "--out": out,
    }
    if data is None and not (subject and prompt and target):
        raise ConfigError("give either --subject, --prompt and --target, or --data")
    expect_only_subject("--prompt", prompt or "")
    for option, value in (many if data is None else single).items():
        if value:
            if data is None:
                raise ConfigError(f"{option}: works only with --data; add --data, or remove it")
            raise ConfigError(f"{option}: works only without --data; remove one of the two")
    output = Output(json_file, report, svg, png)
    output.check()
    variants = [Variant(), *(Variant(top=count) for count in top or [])]
    variants += [Variant(window=layer_range("--window", layers)) for layers in window or []]
    if len(set(variants)) < len(variants):
        raise ConfigError("--top, --window: expected each once")
    summary = read_summary(hparams_file)
    # γ = 0 restricts nothing. It is the plain edit, but its steps are recorded.
    chosen = [
        Arm(arm.name, arm.sadr or {"gamma": 0.0})
        for arm in parse_arms(arms or "plain,sadr", summary.sadr, [])
    ]
    if edited is not None:
        if arms:
            raise ConfigError(
                "--arms: cannot be used with --edited, whose only arm is the edited model; "
                "remove --arms"
            )
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
            folder = out or Path("sadr-drift")
            _run_folder.claim(folder, about, resume)
            findings = _of_many(cluster, make, records.records, folder, console)
    findings.show(console)
    with expecting_results(findings.results, [arm.name for arm in chosen]):
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
            other, _ = load_model(edited, options, device="cpu", named_by="--edited")
        editor = OtherModel(editor, other)
    return CausalEvaluator(editor, arms, variants, options.seed, skip_bad)


def _of_one(make: Callable[[], CausalEvaluator], record: Record, console: Console) -> DriftOfEdit:
    """Examine a single edit."""
    from .. import reports
    from ..evaluation import LocalEngine, Result
    from ..evaluation._single import RecordTask
    from ..evaluation._watch import ItemWatch
    from ._drift_findings import DriftOfEdit

    with console.status("loading the model"), silence():
        evaluator = make()
    with (
        _bar(console, f"{record.prompt} → {record.target_new}", 1 + len(evaluator.arms)) as advance,
        silence(),
        reports() as found,
        ItemWatch(None).items(LocalEngine(evaluator), deque([RecordTask(record)])) as items,
    ):
        results = []
        for result in items:
            assert isinstance(result, Result)
            results.append(result)
            advance(result)
    for result in results:
        if result.error is not None:
            raise ConfigError(f"{result.arm}: {result.error}")
    edits = evaluator.edited_arms
    steps = dict(zip(edits, found, strict=True)) if len(found) == len(edits) else {}
    return DriftOfEdit(record, results, edits, evaluator.variants, evaluator.maps, steps)


def _of_many(
    cluster: Engine | None,
    make: Callable[[], CausalEvaluator],
    records: Sequence[Record],
    out: Path,
    console: Console,
) -> DriftOfRecords:
    """Examine many edits."""
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
    """Show a progress bar. Yield the function that advances it."""
    from rich.markup import escape

    with progress(console, remaining=True) as bar:
        task = bar.add_task(escape(text), total=total, completed=done)
        yield lambda _: bar.advance(task)


def _with_questions(record: Record, relations: Sequence[str], neighbours: Sequence[str]) -> Record:
    """Return the record with the given questions.

    If none are given, use those that the built-in records have for its subject. For another
    subject, the neighbours are those of the first built-in record.
    """
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
            "--right: give the true object, because the new object is compared with it"
        )

    def to_keep(questions: Sequence[Question]) -> tuple[Question, ...]:
        """Return the questions without the edited fact, with the new object as wrong answer."""
        kept = [q for q in questions if q.prompt != record.prompt and q.right != record.target_new]
        return tuple(replace(q, wrong=record.target_new) for q in kept)

    return replace(record, target_true=true, relations=to_keep(own), neighbours=to_keep(others))


def _questions(option: str, texts: Sequence[str], record: Record) -> tuple[Question, ...]:
    from ..evaluation import Question

    return tuple(Question(*split_fact(option, text), record.target_new) for text in texts)
