"""``sadr eval``: EasyEdit's editors measured as the paper does, without and with SADR."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sadr_plugin.errors import ConfigError

from .environment import versions

PACKAGES = ("sadr-plugin", "easyeditor", "torch", "transformers", "nnsight")


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
        str, typer.Option(help="plain (SADR off), sadr, or both with a comma.")
    ] = "plain,sadr",
    gamma: Annotated[
        float | None, typer.Option(help="SADR's weight; else as the hparams file says.", min=0)
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("sadr-eval"),
    resume: Annotated[bool, typer.Option(help="Go on where an earlier run stopped.")] = False,
    skip_bad: Annotated[bool, typer.Option(help="Skip bad records and count them.")] = False,
    fluency: Annotated[bool, typer.Option(help="Generate texts to measure fluency.")] = True,
) -> None:
    """Measure edits as the paper does: efficacy, generalisation, specificity, fluency, drift."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from sadr_plugin import enabled
    from sadr_plugin.evaluation import records as reading
    from sadr_plugin.evaluation import report
    from sadr_plugin.evaluation.run import UNEDITED, Evaluation, Result

    from .editing import EasyEditEditor
    from .environment import import_text_only, silence
    from .loading import load_hparams, load_model

    file = reading.BUILTIN if data == "builtin" else Path(data)
    found = reading.load(file, skip_bad)
    chosen = reading.sample(found.records, limit, seed)
    import_text_only()
    with enabled():
        hparams = load_hparams(hparams_file)
        ways = _arms(arms, hparams.sadr, gamma)
        about = {
            "hparams": _plain(vars(hparams)),
            "arms": {arm.name: arm.sadr for arm in ways},
            "data": file.name,
            "data_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "records": [record.key for record in chosen],
            "seed": seed,
            "fluency": fluency,
        }
        _claim(out, about, resume)
        with silence():
            editor = EasyEditEditor(*load_model(hparams), hparams, seed)
        evaluation = Evaluation(editor, ways, out / "results.jsonl", seed, fluency)
        console = Console(file=sys.stdout)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        progress = Progress(*columns, TimeRemainingColumn(), console=console)
        total = len(chosen) * (len(ways) + 1)
        task = progress.add_task("records × arms", total=total, completed=len(evaluation.results))
        title = f"{hparams.alg_name}, {len(chosen)} records of {file.name}"
        with Live(progress, console=console) as live:

            def show(result: Result) -> None:
                progress.advance(task)
                if result.arm != UNEDITED:
                    summaries = report.summarise(evaluation.results)
                    live.update(Group(report.table(summaries, title), progress))

            with silence():
                results = evaluation.run(chosen, show)
            live.update(progress)
    context = {**about, "skipped": found.skipped, **_machine()}
    console.print(report.table(report.write(out, results, context), title))
    for skipped in found.skipped:
        console.print(f"skipped: {skipped}", markup=False)
    console.print(f"in {out.absolute()}", markup=False)


def _arms(names: str, configured: Any, gamma: float | None) -> list[Any]:
    """The arms; SADR's settings are the hparams file's, γ the option's if there is one."""
    from sadr_plugin.config import SadrConfig
    from sadr_plugin.evaluation.run import Arm

    settings = (SadrConfig.parse(configured) or SadrConfig()).model_dump(exclude_unset=True)
    if gamma is not None:
        settings["gamma"] = gamma
    known: dict[str, Any] = {"plain": None, "sadr": settings}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        raise ConfigError(f"--arms: expected plain, sadr or plain,sadr, got {names!r}")
    return [Arm(name, known[name]) for name in wanted]


def _claim(out: Path, about: dict[str, Any], resume: bool) -> None:
    """Make the folder this run's, or see that it is.

    Raises `ConfigError` where it holds another run.
    """
    file, text = out / "run.json", json.dumps(about, indent=2)
    if file.exists():
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
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
