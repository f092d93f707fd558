"""The hooks for adapters and users.

A plugin is a module or an object. Its methods have the names below and the mark ``hookimpl``. A
method may take any subset of its hook's arguments. ``docs/hooks.md`` has an example of each hook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from .adapter import EditorOptions, EditPoint, HparamsSummary
    from .config import SadrConfig
    from .editor import Editor
    from .events import Report, Step
    from .terms import LossTerm, RunningEdit

PROJECT = "sadr_plugin"

hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)
"""Marks a function or a method as an implementation of the hook of its name.

``@hookimpl(tryfirst=True)`` puts its answer before those of other plugins,
``@hookimpl(trylast=True)`` after them. ``@hookimpl(wrapper=True)`` runs it around them; see pluggy.
"""


@hookspec
def sadr_edit_points() -> list[EditPoint]:  # type: ignore[empty-body]
    """Return the editors of a toolkit: their functions with loops, and how to read arguments."""


@hookspec
def sadr_hparams_base() -> str:  # type: ignore[empty-body]
    """Return the toolkit's base class of hparams, as ``"package.module:Class"``.

    Its other subclasses belong to editors that are not attached. They then refuse a ``sadr`` key
    with a clear message.
    """


@hookspec(firstresult=True)
def sadr_read_hparams(file: Path) -> HparamsSummary | None:
    """Return what an hparams file says, if possible without importing the toolkit.

    ``sadr doctor FILE``, ``sadr eval FILE``, ``sadr drift FILE`` and ``sadr tune FILE`` call this
    hook. The first answer that is not None counts.

    Returns:
        None if the file is not for your toolkit.
    """


@hookspec(firstresult=True)
def sadr_editor(file: Path, options: EditorOptions) -> Editor | None:
    """Return the editor and the model that an hparams file names, for an evaluation.

    ``sadr eval FILE``, ``sadr drift FILE`` and ``sadr tune FILE`` call this hook after
    `sadr_read_hparams`. The first answer that is not None counts. See
    `sadr_plugin.evaluation.Editor`.

    Returns:
        None if the file is not for your toolkit.
    """


@hookspec(firstresult=True)
def sadr_attention_module(model: nn.Module, layer: nn.Module) -> nn.Module | None:
    """Return the module in ``layer`` whose forward computes attention.

    The first answer that is not None counts. The plugin's own answer is the last one. It reads the
    source of the modules.

    Returns:
        None if you cannot tell.
    """


@hookspec(firstresult=True)
def sadr_selected_heads(  # type: ignore[empty-body]
    baseline: Tensor, current: Tensor, subject_index: Tensor, config: SadrConfig
) -> Tensor:
    """Choose the heads that are restricted at this step.

    It is called without gradients. The first answer that is not None counts. The plugin's own
    answer is the last one: `sadr_plugin.method.penalty.selected_heads`, or all heads with
    ``select_heads: false``.

    Args:
        baseline: attention rows before the edit, [layers, prompts, heads, tokens].
        current: attention rows now, the same shape.
        subject_index: the edited token of each prompt, [prompts].
        config: the user's settings.

    Returns:
        A boolean mask, [layers, prompts, heads].
    """


@hookspec(firstresult=True)
def sadr_penalty(  # type: ignore[empty-body]
    baseline: Tensor, current: Tensor, selected: Tensor, subject_index: Tensor, config: SadrConfig
) -> Tensor:
    """Compute the penalty before γ.

    The first answer that is not None counts. The plugin's own answer is the last one:
    `sadr_plugin.method.penalty.drift_penalty`.

    Args:
        baseline: attention rows before the edit, [layers, prompts, heads, tokens].
        current: attention rows now, the same shape.
        selected: the answer of `sadr_selected_heads`.
        subject_index: the edited token of each prompt, [prompts].
        config: the user's settings.

    Returns:
        A scalar with a gradient to ``current``.
    """


@hookspec
def sadr_loss_terms(running: RunningEdit, config: SadrConfig) -> list[LossTerm]:  # type: ignore[empty-body]
    """Return terms for the loss of an edit. It is called once, before the first step.

    A term has a ``name``, a ``weight`` and a method ``value()``, which is called at each step; see
    `sadr_plugin.LossTerm`. ``running`` describes the edit and the step. It can run other prompts
    with the edit's vector in place.

    The plugin's own terms are ``drift``, which is SADR's penalty, and the terms of ``sadr.keep``:
    ``keep`` and ``keep_distracted``.
    """


@hookspec
def sadr_step(step: Step) -> None:
    """Learn about a step. It is called at every step, before the toolkit's backward pass."""


@hookspec
def sadr_edit_finished(report: Report) -> None:
    """Learn about an edit that has ended without an exception.

    The model is then as it was before the edit's optimisation.
    """


@hookspec
def sadr_register_commands(app: Any) -> None:
    """Add commands to the ``sadr`` command line. ``app`` is its `typer.Typer`."""
