"""SADR for FastEdit's ROME (PyPI ``pyfastedit``).

FastEdit pads on the left. Its argument for the tokenizer is ``tokenizer``, and the new object is
``target``. It puts the whole target after the prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sadr_plugin import hookimpl

from .declarations import sadr_edit_points, sadr_hparams_base

if TYPE_CHECKING:
    from pathlib import Path

    from sadr_plugin import EditorOptions, HparamsSummary
    from sadr_plugin.evaluation import Editor

__all__ = ["sadr_edit_points", "sadr_editor", "sadr_hparams_base", "sadr_read_hparams"]


@hookimpl
def sadr_read_hparams(file: Path) -> HparamsSummary | None:
    """Return what a file for FastEdit says (see `editing`), or None for any other file."""
    from .editing import summary

    return summary(file)


@hookimpl
def sadr_editor(file: Path, options: EditorOptions) -> Editor | None:
    """Return FastEdit's editor and model, or None if the file is not FastEdit's."""
    from .editing import editor

    return editor(file, options)
