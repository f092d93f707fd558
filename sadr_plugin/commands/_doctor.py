"""``sadr doctor``: what is installed, which editors can be attached, and which cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from .._version import versions
from ..adapter import HparamsSummary
from ..errors import ConfigError, SadrError, UnsupportedModelError
from ..plugins import editor_names, failed_adapters, loaded_adapters, plugin_manager
from ._editors import attachabilities
from ._hparams import summary_of
from ._options import JsonFile
from ._output import Output, write_json

PACKAGES = ("sadr-plugin", "torch", "transformers", "nnsight", "pluggy", "pydantic", "wrapt")


def model_obstacle(summary: HparamsSummary) -> str | None:
    """Return why SADR cannot read the attention of an hparams file's model, or None if it can.

    The model is built from its configuration alone, without weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ..attention._layers import Watch
    from ..attention._tracer import tracer_for
    from ..config import SadrConfig
    from ..evaluation._loading import cannot_be_loaded

    try:
        # Without the answer, transformers would ask on the terminal whether to run a model's code.
        source = summary.model_name if summary.find_model is None else summary.find_model()
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        return cannot_be_loaded(summary.model_name, error).splitlines()[0]
    try:
        settings = SadrConfig.parse(summary.sadr) or SadrConfig()
        watch = Watch(model, summary.layer_template, summary.layer, settings.layers)
        with tracer_for(watch, plugin_manager().hook):
            return None
    except (ConfigError, UnsupportedModelError) as error:
        return str(error)


def doctor(
    hparams: Annotated[
        Path | None,
        typer.Argument(metavar="HPARAMS.yaml", help="An hparams file that you want to use."),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Show what is installed and attached, what is not, and why.

    With an hparams file, only the editors of its editor's name are listed. The exit status is 1 if
    SADR cannot work with the file.
    """
    from rich.console import Console
    from rich.markup import escape

    Output(json=json).check()
    console = Console()
    found = _installed()
    only, problems, remarks = None, [], []
    if hparams is not None:
        summary = _read(hparams)
        only = summary.editor if isinstance(summary, HparamsSummary) else None
        problems = [problem for problem in _problems(hparams, summary) if problem]
        remarks = [] if isinstance(summary, str) else list(summary.remarks)
    for line in _report(found, only):
        console.print(escape(line), highlight=False, soft_wrap=True)
    if json is not None:
        about = {"file": str(hparams), "problems": problems, "remarks": remarks}
        write_json(json, {**found, "hparams": None if hparams is None else about})
    if hparams is not None:
        for remark in remarks:
            console.print(f"[yellow]![/yellow] {escape(remark)}", highlight=False, soft_wrap=True)
        for problem in problems:
            console.print(f"[red]✗[/red] {escape(problem)}", highlight=False, soft_wrap=True)
        if problems:
            raise typer.Exit(1)
        console.print(f"[green]✓[/green] {escape(str(hparams))}: SADR works with this")


def _installed() -> dict[str, Any]:
    """Return what is installed and what can be attached, as data for JSON."""
    distributions = {name: adapter.dist for name, adapter in loaded_adapters().items()}
    return {
        "versions": versions(PACKAGES),
        "adapters": {
            name: None if where is None else f"{where.name} {where.version}"
            for name, where in distributions.items()
        },
        "left_out": {name: str(reason) for name, reason in failed_adapters().items()},
        "editors": [
            {
                "editor": editor.point.editor,
                "function": editor.point.function,
                "obstacle": editor.obstacle,
            }
            for editor in attachabilities()
        ],
    }


def _read(hparams: Path) -> HparamsSummary | str:
    """Return what the file says, or why it cannot be read."""
    if not hparams.is_file():
        return f"there is no file {hparams}"
    try:
        return summary_of(hparams)
    except SadrError as error:
        return str(error)


def _report(found: dict[str, Any], only: str | None) -> Iterator[str]:
    """Yield the lines of the report. The editors are all, or those with the name ``only``."""
    yield "Versions"
    for package, number in found["versions"].items():
        yield f"  {package}: not installed" if number is None else f"  {package} {number}"
    yield "Adapters"
    for name, where in found["adapters"].items():
        yield f"  {name}" + (f" (from {where})" if where else "")
    for name, reason in found["left_out"].items():
        yield f"  {name}: left out: {reason}"
    yield "Editors"
    for editor in found["editors"]:
        if only not in (None, editor["editor"]):
            continue
        obstacle = editor["obstacle"]
        mark = "can be attached" if obstacle is None else f"not attached: {obstacle}"
        yield f"  {editor['editor']} ({editor['function']}): {mark}"


def _problems(hparams: Path, summary: HparamsSummary | str) -> Iterator[str | None]:
    """Yield the reasons why edits with this file cannot have SADR. None stands for no reason."""
    from ..config import SadrConfig

    if isinstance(summary, str):
        yield summary
        return
    own = [found for found in attachabilities() if found.point.editor == summary.editor]
    own = [found for found in own if summary.hparams in (None, found.point.hparams)]
    if not own:
        wanted = summary.editor if summary.hparams is None else (summary.editor, summary.hparams)
        yield f"no adapter declares the editor {wanted!r}; declared are {editor_names()}"
    for obstacle in dict.fromkeys(found.obstacle for found in own if found.obstacle is not None):
        yield f"{summary.editor}: {obstacle}"
    try:
        if SadrConfig.parse(summary.sadr) is None:
            yield f"{hparams}: does not switch SADR on; add `sadr: true`"
    except ConfigError as error:
        yield f"{hparams}: {error}"
        return
    yield model_obstacle(summary)
