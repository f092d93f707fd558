"""``sadr doctor`` and ``sadr editors``: what is installed, what can be attached, and what not.

Toolkits are looked at as files and not imported: their import takes its time, or fails for
reasons of its own.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from .edit import EditPoint, HparamsSummary
from .errors import ConfigError, SadrError, UnsupportedLoopError, UnsupportedModelError
from .loop import insert_term
from .plugins import edit_points, plugin_manager

PACKAGES = ("sadr-plugin", "torch", "transformers", "nnsight", "pluggy", "pydantic", "wrapt")


@dataclass(frozen=True)
class Finding:
    """Whether one declared editor can be attached here; ``reason`` says why not."""

    point: EditPoint
    reason: str | None

    @property
    def toolkit(self) -> str:
        """The toolkit's top-level package."""
        return self.point.function.partition(".")[0]


def findings() -> list[Finding]:
    """One finding for each declared editor, in the order of their declaration."""
    return [Finding(point, _obstacle(point)) for point in edit_points()]


def _obstacle(point: EditPoint) -> str | None:
    toolkit = point.function.partition(".")[0]
    if importlib.util.find_spec(toolkit) is None:
        return f"{toolkit} is not installed"
    try:
        function = _definition(point.function, ast.FunctionDef)
        _definition(point.hparams, ast.ClassDef)
        if point.cache is not None:
            _definition(point.cache, ast.FunctionDef)
    except LookupError as error:
        return f"this version of {toolkit} has no {error.args[0]}"
    assert isinstance(function, ast.FunctionDef)
    names = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
    if point.hparams_argument not in names:
        return f"{point.function} takes no argument {point.hparams_argument!r}"
    try:
        insert_term(function, point.function)
    except UnsupportedLoopError as error:
        return str(error)
    return None


def _definition(target: str, kind: type[ast.stmt]) -> ast.stmt:
    """The top-level definition ``"package.module:name"`` in the toolkit's source.

    Raises `LookupError` with ``target`` if there is no such file or definition.
    """
    module, _, name = target.partition(":")
    root, *inner = module.split(".")
    spec = importlib.util.find_spec(root)
    for place in (spec.submodule_search_locations or []) if spec else []:
        stem = Path(place, *inner)
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if not file.is_file():
                continue
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, kind) and getattr(node, "name", None) == name:
                    return node
    raise LookupError(target)


def model_obstacle(summary: HparamsSummary) -> str | None:
    """Why SADR cannot watch the model an hparams file names; None if it can.

    The model is built without weights, from its configuration alone.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from .config import SadrConfig
    from .edit import Edit
    from .layers import attention_modules
    from .positions import Prompt
    from .tracing import AttentionTracer

    try:
        config = AutoConfig.from_pretrained(summary.model_name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        return f"model_name: {summary.model_name!r} cannot be loaded: {str(error).splitlines()[0]}"
    prompt = Prompt("", "subject", "")
    edit = Edit(model, None, [prompt], summary.layer, summary.layer_template)
    try:
        settings = SadrConfig.parse(summary.sadr) or SadrConfig()
        with AttentionTracer(attention_modules(edit, settings, plugin_manager().hook)):
            return None
    except (ConfigError, UnsupportedModelError) as error:
        return str(error)


def editors() -> None:
    """Show every editor the installed adapters declare."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("editor", "toolkit", "function", "default γ", "steps", "here"):
        table.add_column(column, overflow="fold")
    for found in findings():
        point = found.point
        table.add_row(
            point.editor,
            found.toolkit,
            point.function.removeprefix(f"{found.toolkit}."),
            f"{point.gamma:g}",
            f"{point.hparams_argument}.{point.steps_attribute}",
            found.reason or "yes",
        )
    Console().print(table)


def doctor(
    hparams: Annotated[
        Path | None,
        typer.Argument(metavar="[HPARAMS.yaml]", help="An hparams file you mean to use."),
    ] = None,
) -> None:
    """Say what is installed, what is attached, what not and why; status 1 if what you ask cannot
    work.
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
    for plugin, distribution in plugin_manager().list_plugin_distinfo():
        name = plugin_manager().get_name(plugin)
        yield f"  {name} (from {distribution.project_name} {distribution.version})"
    yield "Editors"
    for found in findings():
        where = found.point.function
        mark = "can be attached" if found.reason is None else f"not attached: {found.reason}"
        yield f"  {found.point.editor} ({where}): {mark}"


def _problems(hparams: Path) -> Iterator[str | None]:
    """Why edits with this file cannot have SADR."""
    from .config import SadrConfig

    if not hparams.is_file():
        yield f"{hparams}: there is no such file"
        return
    try:
        summary = plugin_manager().hook.sadr_read_hparams(file=hparams)
    except SadrError as error:
        yield str(error)
        return
    if summary is None:
        yield f"{hparams}: no installed adapter knows it as an hparams file of an attached editor"
        return
    reasons = [found.reason for found in findings() if found.point.editor == summary.editor]
    if all(reasons):
        yield f"{summary.editor}: {reasons[0]}"
    try:
        if SadrConfig.parse(summary.sadr) is None:
            yield f"{hparams}: does not switch SADR on; add `sadr: true`"
    except ConfigError as error:
        yield f"{hparams}: {error}"
        return
    yield model_obstacle(summary)
