"""What an adapter declares of an editor, and what is known of one edit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .positions import EditedToken, Prompt

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Edit:
    """One run of an editor's optimisation loop: what is edited, where, with which prompts.

    Attributes:
        model: the model that is edited, as the toolkit calls it.
        tokenizer: its tokenizer.
        prompts: the rewriting prompts without their target, in the order of the loop's batch;
            or, where the function makes them itself, what gives them once the loop runs.
        layer: the layer whose output gains the vector; attention after it can drift.
        layer_template: where the layers are, e.g. ``"model.layers.{}"``.
        edited_token: where in the prompt the vector is added.
        zero_start: whether the vector is zero in the loop's first forward, which then is the
            baseline; if not, the baseline is measured by one forward more, before the loop.
        counts_from_left: whether the toolkit counts positions from the start of a row as if
            there were no padding; a batch padded on the left then earns a warning.
        target: what the edit makes the model say after each prompt, tokenized as it stands, its
            leading space included; None if the adapter cannot tell, and then ``stop_at`` is
            refused.
    """

    model: nn.Module
    tokenizer: Any
    prompts: Sequence[Prompt] | Callable[[], Sequence[Prompt]]
    layer: int
    layer_template: str
    edited_token: EditedToken = "subject_last"
    zero_start: bool = True
    counts_from_left: bool = False
    target: str | None = None


@dataclass(frozen=True)
class EditPoint:
    """An editor's declaration: the function that holds its loop and how its arguments read.

    Attributes:
        editor: the editor's name, as its users write it.
        function: the function with the loop, ``"package.module:function"``.
        hparams: the editor's hparams class, ``"package.module:Class"``; it learns to take a
            ``sadr`` key.
        gamma: γ where the user gives none.
        read: turns the function's arguments, by name, into an `Edit`. Called only for edits
            that SADR is switched on for.
        hparams_argument: the function's argument that holds the hparams object.
        steps_attribute: the attribute of the hparams object with the number of steps.
        cache: the function that keeps found vectors in files and takes them from there,
            ``"package.module:function"``, or None.
        cache_argument: that function's argument with the template of the files' names.
    """

    editor: str
    function: str
    hparams: str
    gamma: float
    read: Callable[[Mapping[str, Any]], Edit]
    hparams_argument: str = "hparams"
    steps_attribute: str = "v_num_grad_steps"
    cache: str | None = None
    cache_argument: str = "cache_template"


@dataclass(frozen=True)
class Step:
    """One step of an edit's optimisation, as hooks receive it.

    Attributes:
        index: steps are counted from 0; at 0 the vector is still zero and so is the penalty,
            but in an edit without `Edit.zero_start`.
        loss: the toolkit's loss with the term in it.
        penalty: the drift penalty before γ.
        selected: share of (layer, prompt, head) triples that were restricted, 0 to 1.
        target: probability of the target, averaged as for ``stop_at``; None without that.
    """

    index: int
    loss: float
    penalty: float
    selected: float
    target: float | None = None


@dataclass(frozen=True)
class Report:
    """An edit that has ended, as hooks receive it.

    Attributes:
        editor: the editor's name.
        layer: the edited layer.
        gamma: the weight that was in force.
        steps: every step, in order.
        seconds: wall time of the loop, the plugin's own work included.
    """

    editor: str
    layer: int
    gamma: float
    steps: tuple[Step, ...]
    seconds: float


@dataclass(frozen=True)
class HparamsSummary:
    """What an adapter reads in an hparams file, without importing its toolkit.

    Attributes:
        editor: the editor's name.
        model_name: what the toolkit would load.
        layer: the layer after which attention can drift.
        layer_template: where the layers are, e.g. ``"model.layers.{}"``.
        sadr: the value under ``sadr``, None if there is none.
    """

    editor: str
    model_name: str
    layer: int
    layer_template: str
    sadr: Any
