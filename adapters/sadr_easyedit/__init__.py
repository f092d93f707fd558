"""SADR for EasyEdit: its PyPI release and its main branch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sadr_plugin import hookimpl

from .editors import sadr_edit_points, sadr_hparams_base, sadr_read_hparams

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
    from .demo import demo
    from .evaluate import evaluate
    from .statistics import stats

    app.command()(demo)
    app.command()(stats)
    app.command("eval")(evaluate)
