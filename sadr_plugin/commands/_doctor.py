"""``sadr doctor``: what is installed, and whether an edit with an hparams file would run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .._version import versions
from ..adapter import HparamsSummary
from ..errors import SadrError
from ..plugins import failed_adapters, loaded_adapters
from ._editors import Attachability, attachabilities
from ._hparams import summary_of
from ._options import JsonFile
from ._output import Output, write_json
from ._toolkits import copy_of
from ._verdict import Verdict, is_of, verdict_on

PACKAGES = ("sadr-plugin", "torch", "transformers", "nnsight", "pluggy", "pydantic")


def doctor(
    hparams: Annotated[
        Path | None,
        typer.Argument(metavar="HPARAMS.yaml", help="An hparams file that you want to use."),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Show what is installed, and whether an edit with a file would run.

    With an hparams file, the toolkit's own hparams object is built, every path and layer in the
    file is looked up in the model, and the files that the edit needs are opened. No weights are
    loaded and nothing is downloaded. The exit status is 1 if an edit would fail, or would be a
    plain one.
    """
    from rich.console import Console
    from rich.markup import escape

    Output(json=json).check()
    console = Console()

    def show(line: str, mark: str = "") -> None:
        console.print(f"{mark}{escape(line)}", highlight=False, soft_wrap=True)

    summary, verdict = (None, None) if hparams is None else _read(hparams)
    editors = attachabilities()
    found = _installed(editors)
    if json is not None:
        write_json(json, {**found, "hparams": _as_data(hparams, summary, verdict)})
    for line in _report(found) if hparams is None else _about(summary, verdict, found, editors):
        show(line)
    if verdict is None:
        return
    for remark in verdict.remarks:
        show(remark, "[yellow]![/yellow] ")
    for fault in verdict.faults:
        show(fault, "[red]✗[/red] ")
    if not verdict.is_good:
        raise typer.Exit(1)
    show(f"{hparams}: SADR works with this", "[green]✓[/green] ")
    for line in verdict.outlook:
        show(f"  {line}")


def _read(hparams: Path) -> tuple[HparamsSummary | None, Verdict]:
    """Return what the file says, if it can be read, and the verdict on it."""
    if not hparams.is_file():
        return None, Verdict([f"there is no file {hparams}"])
    try:
        summary = summary_of(hparams)
    except SadrError as error:
        return None, Verdict([str(error)])
    return summary, verdict_on(hparams, summary)


def _installed(editors: Sequence[Attachability]) -> dict[str, Any]:
    """Return what is installed and what can be attached, as data for JSON."""
    distributions = {name: adapter.dist for name, adapter in loaded_adapters().items()}
    return {
        "versions": versions(PACKAGES),
        "adapters": {
            name: None if where is None else f"{where.name} {where.version}"
            for name, where in distributions.items()
        },
        "left_out": {name: str(reason) for name, reason in failed_adapters().items()},
        "toolkits": {name: copy_of(name) for name in dict.fromkeys(e.toolkit for e in editors)},
        "editors": [
            {
                "editor": editor.point.editor,
                "function": editor.point.function,
                "obstacle": editor.obstacle,
            }
            for editor in editors
        ],
    }


def _as_data(
    hparams: Path | None, summary: HparamsSummary | None, verdict: Verdict | None
) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {
        "file": str(hparams),
        "editor": None if summary is None else summary.editor,
        "model": verdict.model,
        "problems": verdict.faults,
        "remarks": verdict.remarks,
        "outlook": verdict.outlook,
    }


def _about(
    summary: HparamsSummary | None,
    verdict: Verdict | None,
    found: dict[str, Any],
    editors: Sequence[Attachability],
) -> Iterator[str]:
    """Yield what a file's edit consists of: the editor, the model, the toolkit and the versions."""
    if summary is not None and verdict is not None:
        own = [editor for editor in editors if is_of(editor.point, summary)]
        functions = ", ".join(editor.point.function for editor in own)
        yield f"Editor: {summary.editor}" + (f" ({functions})" if own else "")
        yield f"Model: {summary.model_name}" + (f" ({verdict.model})" if verdict.model else "")
        for name in dict.fromkeys(editor.toolkit for editor in own):
            yield f"Toolkit: {found['toolkits'][name] or f'{name}, which is not here'}"
    there = {name: number for name, number in found["versions"].items() if number is not None}
    yield f"With: {', '.join(f'{name} {number}' for name, number in there.items())}"
    yield from _left_out(found)


def _report(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines about everything that is installed. Toolkits that are not here come last."""
    yield "Versions"
    for package, number in found["versions"].items():
        yield f"  {package}: not installed" if number is None else f"  {package} {number}"
    yield "Adapters"
    for name, where in found["adapters"].items():
        yield f"  {name}" + (f" (from {where})" if where else "")
    yield from _left_out(found)
    here = {name: copy for name, copy in found["toolkits"].items() if copy is not None}
    yield "Toolkits"
    for name, copy in here.items():
        yield f"  {name}: {copy}"
    yield "Editors"
    for editor in found["editors"]:
        if _toolkit(editor) in here:
            obstacle = editor["obstacle"]
            mark = "can be attached" if obstacle is None else f"not attached: {obstacle}"
            yield f"  {editor['editor']} ({editor['function']}): {mark}"
    absent = {_toolkit(e): e["obstacle"] for e in found["editors"] if _toolkit(e) not in here}
    for name, obstacle in absent.items():
        yield f"  those of {name}: not attached: {obstacle}"


def _toolkit(editor: dict[str, Any]) -> str:
    return str(editor["function"]).partition(".")[0]


def _left_out(found: dict[str, Any]) -> Iterator[str]:
    for name, reason in found["left_out"].items():
        yield f"  {name}: left out: {reason}"
