"""The hooks through which adapters and users take part.

A plugin is a module or object whose methods bear these names and the mark ``hookimpl``; it may
take any subset of the arguments. ``docs/how-it-works.md`` shows one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from .adapter import EditorOptions, EditPoint, HparamsSummary
    from .config import SadrConfig
    from .evaluation import Editor
    from .events import Report, Step
    from .method._running import LossTerm, RunningEdit

PROJECT = "sadr_plugin"

hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)


@hookspec
def sadr_edit_points() -> list[EditPoint]:  # type: ignore[empty-body]
    """The editors of a toolkit: which functions hold loops and how their arguments read."""


@hookspec
def sadr_hparams_base() -> str:  # type: ignore[empty-body]
    """The toolkit's base class of hparams, ``"package.module:Class"``.

    Its other subclasses, whose editors are not attached, then refuse a ``sadr`` key in clear
    words.
    """


@hookspec(firstresult=True)
def sadr_read_hparams(file: Path) -> HparamsSummary | None:
    """What an hparams file says, read without importing the toolkit; None if it is not yours.

    ``sadr doctor FILE`` asks this.
    """


@hookspec(firstresult=True)
def sadr_editor(file: Path, options: EditorOptions) -> Editor | None:
    """The editor and the model that an hparams file names, for an evaluation; None if not yours.

    ``sadr eval FILE`` asks this, after `sadr_read_hparams`. See `sadr_plugin.evaluation.Editor`.
    """


@hookspec(firstresult=True)
def sadr_attention_module(model: nn.Module, layer: nn.Module) -> nn.Module | None:
    """The module in ``layer`` whose forward computes attention; None if you cannot tell.

    The first answer that is not None counts; the plugin's own reads the modules' source, see
    `sadr_plugin.attention._modules`.
    """


@hookspec(firstresult=True)
def sadr_selected_heads(  # type: ignore[empty-body]
    baseline: Tensor, current: Tensor, subject_index: Tensor, config: SadrConfig
) -> Tensor:
    """Which heads are restricted at this step, a boolean mask [layers, prompts, heads].

    ``baseline`` and ``current`` are rows [layers, prompts, heads, tokens], ``subject_index``
    is [prompts]. Called without gradients. The first answer counts; the plugin's own is
    `sadr_plugin.method.penalty.selected_heads`, or all heads with ``select_heads: false``.
    """


@hookspec(firstresult=True)
def sadr_penalty(  # type: ignore[empty-body]
    baseline: Tensor, current: Tensor, selected: Tensor, subject_index: Tensor, config: SadrConfig
) -> Tensor:
    """The penalty before γ, a scalar with a gradient to ``current``.

    Arguments as for `sadr_selected_heads`, whose answer is ``selected``. The first answer
    counts; the plugin's own is `sadr_plugin.method.penalty.drift_penalty`.
    """


@hookspec
def sadr_loss_terms(running: RunningEdit, config: SadrConfig) -> list[LossTerm]:  # type: ignore[empty-body]
    """Terms of an edit's loss; called once, before its first step.

    A term has a ``name``, a ``weight`` and a method ``value()``, asked at each step; see
    `sadr_plugin.LossTerm`. ``running`` tells the edit and the step, and runs other prompts with
    the edit's vector in place. The plugin's own terms are SADR's, ``drift``, and those of
    ``sadr.keep``: ``keep`` and ``keep_distracted``.
    """


@hookspec
def sadr_step(step: Step) -> None:
    """A step's loss is known; called before the toolkit's backward, at every step."""


@hookspec
def sadr_edit_finished(report: Report) -> None:
    """An edit has ended without an exception; the model is as it was before it."""


@hookspec
def sadr_register_commands(app: Any) -> None:
    """Add commands to the ``sadr`` command line; ``app`` is its `typer.Typer`."""
