"""``sadr editors``, and the check of which declared editors can be attached here.

Toolkits are read as files and not imported, because an import is slow and can fail for its own
reasons. The loop, its arguments and its labels are checked by the same functions as for an edit.
The number of steps is checked only for an edit, because only an hparams object has it.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from typing import Any

from ..adapter import EditPoint
from ..errors import AttachmentError, UnsupportedLoopError
from ..patching._functions import cache_arguments, loop_arguments, refuse_missing_arguments
from ..patching._loop import insert_term
from ..patching._names import Name
from ..patching._strangers import is_written_as_declared, keeps_no_files
from ..plugins import edit_points
from ._options import JsonFile
from ._output import Output, write_json


@dataclass(frozen=True)
class Attachability:
    """Whether one declared editor can be attached here. ``obstacle`` says why it cannot."""

    point: EditPoint
    obstacle: str | None

    @property
    def toolkit(self) -> str:
        """The toolkit's top-level package."""
        return Name.parse(self.point.function).toolkit


def attachabilities() -> list[Attachability]:
    """Check each declared editor, in the order of declaration."""
    return [Attachability(point, _obstacle(point)) for point in edit_points()]


def _obstacle(point: EditPoint) -> str | None:
    toolkit = Name.parse(point.function).toolkit
    if importlib.util.find_spec(toolkit) is None:
        return f"{toolkit} is not installed, or its folder is not on PYTHONPATH"
    try:
        loop = Name.parse(point.function).definition(ast.FunctionDef)
        hparams = Name.parse(point.hparams).definition(ast.ClassDef)
        if point.parameters is not None and not is_written_as_declared(point, loop, hparams):
            return f"the {toolkit} that is here is another package"
        refuse_missing_arguments(point.function, loop_arguments(point), _arguments(loop))
        for target in point.caches:
            may_lack = len(point.caches) > 1 or point.parameters is not None
            if may_lack and not Name.parse(target).exists():
                continue  # not every version has all of them
            cache = Name.parse(target).definition(ast.FunctionDef)
            if not keeps_no_files(point, _arguments(cache)):
                refuse_missing_arguments(target, cache_arguments(point), _arguments(cache))
        insert_term(loop, point.function, point.labels)
    except LookupError as error:
        if point.parameters is not None:
            return f"the {toolkit} that is here is another package"
        return f"this version of {toolkit} has no {error.args[0]}"
    except (AttachmentError, UnsupportedLoopError) as error:
        return str(error)
    except (SyntaxError, ValueError) as error:
        return f"a file of {toolkit} cannot be read: {error}"
    return None


def _arguments(function: ast.FunctionDef) -> set[str]:
    taken = function.args
    return {argument.arg for argument in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)}


def editors(
    json: JsonFile = None,
) -> None:
    """Show every editor that the installed adapters declare."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    Output(json=json).check()
    rows = [_row(found) for found in attachabilities()]
    if json is not None:
        write_json(json, rows)
    table = Table()
    for column in ("editor", "toolkit", "function", "default γ", "steps", "here"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            row["editor"],
            row["toolkit"],
            row["function"].removeprefix(f"{row['toolkit']}."),
            f"{row['gamma']:g}",
            row["steps"] or "–",
            escape(row["obstacle"] or "yes"),
        )
    Console().print(table)


def _row(found: Attachability) -> dict[str, Any]:
    """Return an editor as data for JSON."""
    point = found.point
    steps = point.steps_attribute
    return {
        "editor": point.editor,
        "toolkit": found.toolkit,
        "function": point.function,
        "gamma": point.gamma,
        "steps": None if steps is None else f"{point.hparams_argument}.{steps}",
        "obstacle": found.obstacle,
    }
