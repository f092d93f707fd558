"""SADR for EasyEdit: its PyPI release and its main branch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sadr_plugin import hookimpl

from .declarations import sadr_edit_points, sadr_hparams_base
from .hparams_check import sadr_read_hparams
from .hparams_files import is_easyedits

if TYPE_CHECKING:
    from pathlib import Path

    import typer

    from sadr_plugin import EditorOptions
    from sadr_plugin.evaluation import Editor

__all__ = [
    "sadr_edit_points",
    "sadr_editor",
    "sadr_hparams_base",
    "sadr_read_hparams",
    "sadr_register_commands",
]


@hookimpl
def sadr_register_commands(app: typer.Typer) -> None:
    """Add ``sadr demo`` and ``sadr stats``."""
    from .commands.demo import demo
    from .commands.stats import stats

    app.command()(demo)
    app.command()(stats)


@hookimpl
def sadr_editor(file: Path, options: EditorOptions) -> Editor | None:
    """Return EasyEdit's editor and model, or None if the file is not EasyEdit's."""
    if not is_easyedits(file):
        return None
    from sadr_plugin.evaluation import attention_for_edits

    from .editing import EasyEditEditor
    from .environment import import_text_only
    from .hparams_files import load_hparams
    from .loading import load_model

    import_text_only()
    hparams = load_hparams(file)
    model, tokenizer = load_model(hparams, attention_for_edits(), options)
    return EasyEditEditor(model, tokenizer, hparams, options.seed)
