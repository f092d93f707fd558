"""SADR for EasyEdit: its PyPI release and its main branch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sadr_plugin import hookimpl

from .declarations import sadr_edit_points, sadr_hparams_base
from .hparams_files import sadr_read_hparams

if TYPE_CHECKING:
    import typer

__all__ = [
    "sadr_edit_points",
    "sadr_hparams_base",
    "sadr_read_hparams",
    "sadr_register_commands",
]


@hookimpl
def sadr_register_commands(app: typer.Typer) -> None:
    """Add ``sadr demo``, ``sadr stats`` and ``sadr eval``."""
    from .commands.demo import demo
    from .commands.eval import evaluate
    from .commands.stats import stats

    app.command()(demo)
    app.command()(stats)
    app.command("eval")(evaluate)
