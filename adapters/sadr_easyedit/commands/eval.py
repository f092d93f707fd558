"""``sadr eval``: EasyEdit's editors measured as the paper does, without and with SADR."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sadr_plugin.errors import ConfigError, EvaluationError

from ..environment import versions

if TYPE_CHECKING:
    from rich.console import Console

    from sadr_plugin.evaluation import Arm, Engine, EvaluationRun, LocalEngine, Result

PACKAGES = ("sadr-plugin", "easyeditor", "torch", "transformers", "nnsight")


class Engines(str, Enum):
    """Where records are evaluated."""

    local = "local"
    ray = "ray"


class Precision(str, Enum):
    """`torch.set_float32_matmul_precision`."""

    highest = "highest"
    high = "high"
    medium = "medium"


def evaluate(
    hparams_file: Annotated[
        Path, typer.Argument(metavar="HPARAMS.yaml", help="The editor and its settings.")
    ],
    data: Annotated[
        str,
        typer.Option(
            help='"builtin", facts SmolLM2 knows; or a file of records: CounterFact, '
            "WikiData_counterfact, ZsRE or the official SADR format, told apart by their content."
        ),
    ],
    limit: Annotated[
        int | None,
        typer.Option(help="How many records, chosen by the seed; else all.", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice, the contexts and generated texts.")] = 0,
    arms: Annotated[
        str,
        typer.Option(
            help="With commas: plain (SADR off), control (γ = 0: stop_at alone), sadr, keep "
            "(γ = 0, and the file's keep or the default one), sadr+keep. The file's keep is in "
            "the last two only. [default: plain,sadr; with keep in the file sadr+keep, too]",
            show_default=False,
        ),
    ] = "",
    gamma: Annotated[
        list[float] | None,
        typer.Option(
            help="SADR's weight, else as the hparams file says; repeatable, an arm for each.",
            min=0,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("sadr-eval"),
    resume: Annotated[bool, typer.Option(help="Go on where an earlier run stopped.")] = False,
    skip_bad: Annotated[
        bool,
        typer.Option(
            help="Skip and count bad records, and those on which the editor itself fails; else "
            "they end the run."
        ),
    ] = False,
    fluency: Annotated[bool, typer.Option(help="Generate texts to measure fluency.")] = True,
    engine: Annotated[
        Engines, typer.Option(help="Here, or on the workers of a Ray cluster.")
    ] = Engines.local,
    workers: Annotated[
        int | None, typer.Option(help="With ray: how many; else one for each GPU, or one.", min=1)
    ] = None,
    matmul: Annotated[
        Precision,
        typer.Option(
            help="Precision of float32 matrix products; high and medium are faster where the "
            "processor has TF32 or bfloat16."
        ),
    ] = Precision.highest,
) -> None:
    """Measure edits as the paper does, without SADR and with it.

    Efficacy, generalisation, specificity, fluency and drift, by the paper's metrics.
    """
    from rich.console import Console

    from sadr_plugin import enabled
    from sadr_plugin.evaluation import BUILTIN, EvaluationRun, draw, load, sample, table, write

    from ..environment import import_text_only, silence
    from ..hparams_files import load_hparams

    file = BUILTIN if data == "builtin" else Path(data)
    found = load(file, skip_bad)
    chosen = sample(found.records, limit, seed)
    import_text_only()
    with enabled(), _matmul(matmul):
        hparams = load_hparams(hparams_file)
        chosen_arms = _arms(arms, hparams.sadr, gamma or [])
        about = {
            "hparams": _plain(vars(hparams)),
            "arms": {arm.name: arm.sadr for arm in chosen_arms},
            "data": file.name,
            "data_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "records": [record.key for record in chosen],
            "seed": seed,
            "fluency": fluency,
            "matmul": matmul.value,
        }
        make = partial(make_engine, hparams_file, chosen_arms, seed, fluency, skip_bad)
        cluster = _cluster(engine, partial(_on_worker, make, matmul), chosen_arms, workers)
        _claim(out, about, resume)
        evaluation = EvaluationRun(cluster or make(), out / "results.jsonl")
        console = Console(file=sys.stdout)
        title = f"{hparams.alg_name}, {len(chosen)} records of {file.name}"
        with (
            _shown(console, title, evaluation, len(chosen), len(chosen_arms) + 1) as show,
            silence(),
        ):
            results = evaluation.run(chosen, show)
    where = {"engine": engine.value, "workers": workers}
    context = {**about, "skipped": found.skipped, **where, **_machine()}
    summaries = write(out, results, context)
    console.print(table(summaries, title))
    try:
        draw(out / "summary.svg", summaries, title)
    except EvaluationError as error:
        console.print(f"no plot: {error}", markup=False)
    for result in results:
        if result.error is not None:
            failed = f"failed: record {result.record}, {result.arm}: {result.error}"
            console.print(failed, markup=False)
    for skipped in found.skipped:
        console.print(f"skipped: {skipped}", markup=False)
    console.print(f"in {out.absolute()}", markup=False)


def make_engine(
    hparams_file: Path,
    arms: Sequence[Arm],
    seed: int = 0,
    fluency: bool = True,
    skip_bad: bool = False,
) -> LocalEngine:
    """An engine with EasyEdit's editor and the model its hparams file names.

    SADR has to be enabled.
    """
    import torch

    from sadr_plugin.evaluation import LocalEngine

    from ..editing import EasyEditEditor
    from ..environment import import_text_only, silence
    from ..hparams_files import load_hparams
    from ..loading import load_model

    import_text_only()
    hparams = load_hparams(hparams_file)
    with silence():
        # On a processor, and at an edit's few tokens, it is a quarter faster than the others.
        attention = None if torch.cuda.is_available() else "eager"
        editor = EasyEditEditor(*load_model(hparams, attention), hparams, seed)
    return LocalEngine(editor, arms, seed, fluency, skip_bad)


def _cluster(
    engine: Engines, make: Callable[[], LocalEngine], arms: Sequence[Arm], workers: int | None
) -> Engine | None:
    """The engine with workers, if it is asked for."""
    if engine is Engines.ray:
        from sadr_plugin.evaluation import RayEngine

        return RayEngine(make, [arm.name for arm in arms], workers)
    if workers is not None:
        raise ConfigError("--workers: there are none but with --engine ray")
    return None


def _on_worker(make: Callable[[], LocalEngine], matmul: Precision) -> LocalEngine:
    """The engine of a process that does nothing else."""
    import torch

    from sadr_plugin import enable

    torch.set_float32_matmul_precision(matmul.value)
    enable()
    return make()


@contextlib.contextmanager
def _matmul(precision: Precision) -> Iterator[None]:
    """Torch's precision of matrix products, inside the block."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision.value)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def _shown(
    console: Console, title: str, evaluation: EvaluationRun, records: int, arms: int
) -> Iterator[Callable[[Result], None]]:
    """A bar, and above it the table so far, on the terminal; yields what moves them on."""
    from rich.console import Group
    from rich.live import Live
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from sadr_plugin.evaluation import summarise, table

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=console)
    task = bar.add_task("records × arms", total=records * arms, completed=len(evaluation.results))
    with Live(bar, console=console) as live:

        def show(_: Result) -> None:
            bar.advance(task)
            if len(evaluation.results) % arms == 0:  # a record is finished
                summaries = summarise(evaluation.results)
                live.update(Group(table(summaries, title), bar))

        yield show
        live.update(bar)


def _arms(names: str, configured: Any, gammas: Sequence[float]) -> list[Arm]:
    """The arms; SADR's settings are the hparams file's, γ the option's if there is one."""
    from sadr_plugin import SadrConfig
    from sadr_plugin.evaluation import Arm

    config = SadrConfig.parse(configured) or SadrConfig()
    settings = config.model_dump(exclude_unset=True)
    keep = {"keep": settings.pop("keep", None) or True}

    def of_each_gamma(name: str, more: dict[str, Any]) -> list[Arm]:
        if len(gammas) > 1:
            return [Arm(f"{name} {g:g}", {**settings, **more, "gamma": g}) for g in gammas]
        return [Arm(name, {**settings, **more, **({"gamma": gammas[0]} if gammas else {})})]

    sadr = of_each_gamma("sadr", {})
    known = {
        "plain": [Arm("plain", None)],
        "control": [Arm("control", {**settings, "gamma": 0.0})],
        "sadr": sadr,
        "keep": [Arm("keep", {**settings, **keep, "gamma": 0.0})],
        "sadr+keep": of_each_gamma("sadr+keep", keep),
    }
    names = names or ("plain,sadr" if config.keep is None else "plain,sadr,sadr+keep")
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        raise ConfigError(f"--arms: expected some of {', '.join(known)} with commas, got {names!r}")
    if len({arm.name for arm in sadr}) < len(sadr):
        raise ConfigError(f"--gamma: expected different values, got {gammas}")
    if gammas and not {"sadr", "sadr+keep"} & set(wanted):
        raise ConfigError(f"--gamma: there is no arm sadr or sadr+keep in {names!r}")
    found = [arm for name in wanted for arm in known[name]]
    for arm in found:
        SadrConfig.parse(arm.sadr)
    return found


def _claim(out: Path, about: dict[str, Any], resume: bool) -> None:
    """Make the folder this run's, or see that it is.

    Raises `ConfigError` where it holds another run; one that came to no result is none.
    """
    file, text = out / "run.json", json.dumps(about, indent=2)
    results = out / "results.jsonl"
    if file.exists() and results.exists() and results.stat().st_size:
        if not resume:
            raise ConfigError(f"--out: {out} holds a run; go on with --resume, or name another")
        if file.read_text(encoding="utf-8") != text:
            raise ConfigError(f"--resume: {out} holds a run with other settings; see {file}")
        return
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON can hold them."""
    return {name: json.loads(json.dumps(value, default=str)) for name, value in values.items()}


def _machine() -> dict[str, Any]:
    import torch

    return {
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
        "processor": platform.processor() or platform.machine(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
