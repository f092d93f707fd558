"""``sadr tune``: find settings for a model and an editor, and test them on other records."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..adapter import EditorOptions
from ..config import SadrConfig
from ..errors import ConfigError, EvaluationError
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
    SvgFolder,
    Threads,
    TrustRemoteCode,
    layer_range,
)
from ._options import Engine as EngineOption
from ._output import Output
from ._run_setup import Chosen, Place, about_run, make_editor, make_evaluator, read_summary
from .terminal import progress, silence


def tune(
    hparams_file: HparamsFile,
    data: Annotated[
        str,
        typer.Option(
            help='Records for the search and for the final test: "builtin" or a file, as for '
            "sadr eval."
        ),
    ],
    budget: Annotated[
        str,
        typer.Option(
            help="Time for the search alone, such as 30m or 2h. The other steps take extra time."
        ),
    ] = "30m",
    limit: Limit = None,
    records: Annotated[
        int, typer.Option(help="Maximum number of records for each trial of the search.", min=4)
    ] = 16,
    judged: Annotated[
        int, typer.Option(help="Maximum number of other records for the final test.", min=4)
    ] = 40,
    keep: Annotated[bool, typer.Option(help="Also search the settings of sadr.keep.")] = True,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers to try, such as 3-9. Missing statistics are computed from --corpus. "
            "[default: the layers that have statistics]",
            show_default=False,
        ),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="Text for layer statistics, as for sadr stats.", show_default=False),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Seed for the split of the records, the search and the context prompts."),
    ] = 0,
    write: Annotated[
        Path | None,
        typer.Option(help="Write the hparams file with the best settings.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results of all trials.")] = Path(
        "sadr-tune"
    ),
    resume: Resume = False,
    skip_bad: Annotated[
        bool, typer.Option(help="Skip bad records of the file. Otherwise they end the run.")
    ] = False,
    engine: EngineOption = Engines.local,
    workers: Annotated[
        int | None,
        typer.Option(
            help="With --engine ray: the number of trials that run at once. Required there.", min=1
        ),
    ] = None,
    threads: Threads = None,
    dtype: DType = None,
    trust_remote_code: TrustRemoteCode = False,
    matmul: Matmul = Precision.highest,
    json_file: JsonFile = None,
    report: ReportFile = None,
    svg: SvgFolder = None,
    png: PngFolder = None,
) -> None:
    """Find settings for this model, and test them on other records.

    A check-up tests the editor with the settings of the file. A search then tries the editor's own
    settings and SADR's, on half of the records that the model knows. At the end, the best settings,
    the plain edit and the stop alone are compared on the other half.
    """
    from rich.console import Console

    from .. import enabled
    from ..evaluation import LocalEngine
    from ..tuning import Options, TrialEvaluator, Tuner, expect_optuna
    from ._tune_findings import TuningFindings, expect_writable

    expect_optuna()
    seconds = _seconds(budget)
    output = Output(json_file, report, svg, png)
    output.check()
    if write is not None:
        expect_writable(write, hparams_file)
    if corpus and layers is None:
        raise ConfigError("--corpus: for the statistics of --layers, which is not given")
    if engine is Engines.ray and workers is None:
        raise ConfigError("--workers: with --engine ray, say how many trials to run at once")
    summary = read_summary(hparams_file)
    chosen = Chosen.by(data, limit, seed, skip_bad)
    options = EditorOptions(seed, dtype and dtype.value, trust_remote_code)
    place = Place(engine, workers, threads, matmul)
    wanted = None if layers is None else layer_range("--layers", layers)
    about = {
        **about_run("tune", summary, chosen, options, place),
        "tried_on": records,
        "judged_on": judged,
        "keep": keep,
        "layers": wanted,
    }
    console = Console(file=sys.stdout)
    with enabled(), place.torch_settings():
        make = partial(make_evaluator, hparams_file, options, partial(TrialEvaluator, seed=seed))
        cluster = place.cluster(make, [])
        _run_folder.claim(out, about, resume)
        with console.status("loading the model"):
            editor = make_editor(hparams_file, options)
        tuner_options = Options(
            seconds, records, judged, keep, wanted, _fixed(summary.sadr), workers or 1, seed
        )
        with progress(console) as bars, silence():
            if wanted is not None:
                editor.prepare(range(wanted[0], wanted[1] + 1), corpus or [], bars)
            trials = cluster or LocalEngine(TrialEvaluator(editor, seed))
            tuning = Tuner(editor, trials, out, tuner_options, bars).run(chosen.records)
        findings = TuningFindings(summary.editor, tuning, editor)
    findings.show(console)
    if write is not None and tuning.best is not None:
        findings.write(hparams_file, write)
        helps = tuning.verdict is not None and tuning.verdict.helps
        what = "the hparams file to use" if helps else "the best settings, which need not help"
        console.print(f"{what}: {write.absolute()}", markup=False)
    elif write is not None:
        console.print(f"no settings were found, so {write} is not written", markup=False)
    output.write(findings, console)
    console.print(f"in {out.absolute()}", markup=False)
    if tuning.tried and tuning.best is None:
        errors = [r.error for tried in tuning.tried for r in tried.results if r.error is not None]
        failed = f"; {len(errors)} edits failed, the first: {errors[0]}" if errors else ""
        raise EvaluationError(
            f"no settings were found: edits succeeded in none of the {len(tuning.tried)} "
            f"trials{failed}"
        )


def _fixed(configured: Any) -> dict[str, Any]:
    """Return the settings under ``sadr:`` in the file that the search does not change."""
    config = SadrConfig.parse(configured)
    if config is None:
        return {}
    searched = {"gamma", "stop_at", "num_grad_steps"}
    return config.model_dump(exclude_unset=True, exclude=searched)


def _seconds(text: str) -> float:
    """Return the seconds of a time such as ``"30m"``, ``"1h30m"`` or ``"90s"``.

    Raises:
        ConfigError: the text has another form.
    """
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise ConfigError(f"--budget: expected a time such as 30m or 1h30m, got {text!r}")
    return sum(float(number) * units[unit] for number, unit in parts)
