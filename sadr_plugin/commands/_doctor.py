"""``sadr doctor``: what is installed, what can be attached, and what not."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from ..adapter import HparamsSummary
from ..errors import ConfigError, SadrError, UnsupportedModelError
from ..plugins import failed_adapters, loaded_adapters, plugin_manager
from ._editors import attachabilities
from ._hparams import summary_of

PACKAGES = ("sadr-plugin", "torch", "transformers", "nnsight", "pluggy", "pydantic", "wrapt")


def model_obstacle(summary: HparamsSummary) -> str | None:
    """Why SADR cannot watch the model an hparams file names; None if it can.

    The model is built without weights, from its configuration alone.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ..attention._layers import Watch
    from ..attention._tracer import tracer_for
    from ..config import SadrConfig

    try:
        config = AutoConfig.from_pretrained(summary.model_name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        return f"model_name: {summary.model_name!r} cannot be loaded: {str(error).splitlines()[0]}"
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
        typer.Argument(metavar="[HPARAMS.yaml]", help="An hparams file you mean to use."),
    ] = None,
) -> None:
    """Say what is installed and attached, what not, and why.

    Ends with status 1 if the hparams file cannot have SADR.
    """
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    for line in _report():
        console.print(escape(line), highlight=False, soft_wrap=True)
    if hparams is not None:
        problems = [problem for problem in _problems(hparams) if problem]
        for problem in problems:
            console.print(f"[red]✗[/red] {escape(problem)}", highlight=False, soft_wrap=True)
        if problems:
            raise typer.Exit(1)
        console.print(f"[green]✓[/green] {escape(str(hparams))}: SADR works with this")


def _report() -> Iterator[str]:
    yield "Versions"
    for package in PACKAGES:
        try:
            yield f"  {package} {version(package)}"
        except PackageNotFoundError:
            yield f"  {package}: not installed"
    yield "Adapters"
    for name, adapter in loaded_adapters().items():
        where = adapter.dist
        yield f"  {name}" + (f" (from {where.name} {where.version})" if where else "")
    for name, reason in failed_adapters().items():
        yield f"  {name}: left out: {reason}"
    yield "Editors"
    for found in attachabilities():
        function = found.point.function
        mark = "can be attached" if found.obstacle is None else f"not attached: {found.obstacle}"
        yield f"  {found.point.editor} ({function}): {mark}"


def _problems(hparams: Path) -> Iterator[str | None]:
    """Why edits with this file cannot have SADR."""
    from ..config import SadrConfig

    if not hparams.is_file():
        yield f"{hparams}: there is no such file"
        return
    try:
        summary = summary_of(hparams)
    except SadrError as error:
        yield str(error)
        return
    own = [found for found in attachabilities() if found.point.editor == summary.editor]
    own = [found for found in own if summary.hparams in (None, found.point.hparams)]
    for obstacle in dict.fromkeys(found.obstacle for found in own if found.obstacle is not None):
        yield f"{summary.editor}: {obstacle}"
    try:
        if SadrConfig.parse(summary.sadr) is None:
            yield f"{hparams}: does not switch SADR on; add `sadr: true`"
    except ConfigError as error:
        yield f"{hparams}: {error}"
        return
    yield model_obstacle(summary)
