"""``sadr models``: test the known architectures on the installed release of transformers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..models._architectures import ARCHITECTURES, Architecture
from ..models._check import Trial, check, is_sound
from ..models._reuse_check import worst
from ..models.notices import quiet_transformers
from ._options import JsonFile
from ._output import Output, write_json


def models(
    markdown: Annotated[bool, typer.Option(help="Print the table as Markdown.")] = False,
    json: JsonFile = None,
) -> None:
    """Test attention reading and reuse on every known architecture.

    The exit status is 1 if the result of one architecture differs.
    """
    import torch
    import transformers
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import track
    from rich.table import Table

    Output(json=json).check()
    implementations = ("eager", "sdpa")
    rows: list[tuple[Architecture, list[Trial]]] = []
    for architecture in track(ARCHITECTURES, console=Console(stderr=True), transient=True):
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the unusual sizes of the small random models
            rows.append((architecture, [check(architecture, i) for i in implementations]))
    title = f"transformers {transformers.__version__}, torch {torch.__version__}"
    header = ["architecture", *implementations, "reuse", "left out", "remarks"]
    cells = [
        [tried.name, *map(_cell, found), *_reuse_cells(found), _remarks(found)]
        for tried, found in rows
    ]
    if json is not None:
        write_json(
            json, [_data(tried, dict(zip(implementations, f, strict=True))) for tried, f in rows]
        )
    if markdown:
        lines = [f"## {title}", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
        print("\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells), ""]))
    else:
        table = Table(*header, title=title)
        for row in cells:
            table.add_row(*map(escape, row))
        Console().print(table)
    if not all(is_sound(tried, finding) for tried, found in rows for finding in found):
        raise typer.Exit(1)


def _data(tried: Architecture, found: Mapping[str, Trial]) -> dict[str, Any]:
    """Return an architecture as data for JSON."""
    return {
        "architecture": tried.name,
        "sound": all(is_sound(tried, trial) for trial in found.values()),
        "trials": {
            implementation: {
                "difference": trial.difference,
                "remark": trial.remark,
                "reuse": None if trial.reuse is None else asdict(trial.reuse),
            }
            for implementation, trial in found.items()
        },
    }


def _remarks(found: list[Trial]) -> str:
    remarks = [f.remark for f in found] + [f.reuse.remark for f in found if f.reuse is not None]
    return "; ".join(dict.fromkeys(filter(None, remarks)))


def _reuse_cells(found: list[Trial]) -> list[str]:
    trials = [finding.reuse for finding in found if finding.reuse is not None]
    if not trials:
        return ["–", "–"]
    return [f"{worst(trials).difference:.1e}", f"{worst(trials).left_out:.0%}"]


def _cell(found: Trial) -> str:
    return "–" if found.difference is None else f"{found.difference:.1e}"
