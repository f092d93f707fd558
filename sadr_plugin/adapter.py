"""What an adapter declares of its editors, and says of one edit and of one hparams file.

Imports nothing heavy: adapters are imported while torch itself is being imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .errors import PositionError

if TYPE_CHECKING:
    from torch import nn

EditedToken = Literal["subject_last", "subject_first", "subject_first_after_last", "last"]


@dataclass(frozen=True)
class Prompt:
    """A rewriting prompt with the place of the subject in it, without its target.

    The text is ``prefix + subject + suffix``.
    """

    prefix: str
    subject: str
    suffix: str

    @classmethod
    def from_template(cls, template: str, subject: str) -> Prompt:
        """Fill ``subject`` into the one ``{}`` of ``template``.

        Raises `PositionError` when there is no ``{}``, or more than one: nothing then says
        which occurrence is edited.
        """
        parts = template.split("{}")
        if len(parts) != 2:
            raise PositionError(
                f"the prompt {template!r} must hold the subject {subject!r} exactly once, "
                f'written as "{{}}"; it does {len(parts) - 1} times'
            )
        if not subject.strip():
            raise PositionError(f"the subject of the prompt {template!r} is empty")
        return cls(parts[0], subject, parts[1])

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.prefix + self.subject + self.suffix


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
        target: what the edit makes the model say after each prompt, its leading space included.
            It serves ``stop_at`` where `EditPoint.labels` is None; without either, ``stop_at``
            is refused. ``keep`` states it before texts about other things.
        old_target: what the model said before, where that is known; ``keep`` leaves out texts
            that state it.
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
    old_target: str | None = None

    def rewriting_prompts(self) -> Sequence[Prompt]:
        """The prompts, which may be known only once the loop runs."""
        return self.prompts() if callable(self.prompts) else self.prompts


@dataclass(frozen=True)
class EditPoint:
    """An editor's declaration: the function that holds its loop and how its arguments read.

    Attributes:
        editor: the editor's name, as its users write it.
        function: the function with the loop, ``"package.module:function"``, where it is defined.
        hparams: the editor's hparams class, ``"package.module:Class"``; it learns to take a
            ``sadr`` key.
        gamma: γ where the user gives none.
        read: turns the function's arguments, by name, into an `Edit`. Called only for edits
            that SADR is switched on for.
        hparams_argument: the function's argument that holds the hparams object.
        steps_attribute: the attribute of the hparams object with the number of steps; None if
            there is none, and then ``num_grad_steps`` is refused.
        labels: the function's variable with the target's tokens, a tensor [prompts, tokens]: at
            each position the token that the logits of that position should predict, -100 for
            none. ``stop_at`` reads it. None if there is none of that form.
        cache: the function that keeps found vectors in files and takes them from there,
            ``"package.module:function"``; several of them, or None.
        cache_argument: the argument of these functions with the template of the files' names.
            With ``parameters``, a function without it keeps no files and is left alone: who
            carries research code on may drop it.
        parameters: the parameters of ``function``, in their order, where its module has so common
            a name that it may be a stranger's. One that has others, or whose hparams class is no
            dataclass with ``steps_attribute``, is then left alone, without a word.
    """

    editor: str
    function: str
    hparams: str
    gamma: float
    read: Callable[[Mapping[str, Any]], Edit]
    hparams_argument: str = "hparams"
    steps_attribute: str | None = "v_num_grad_steps"
    labels: str | None = None
    cache: str | Sequence[str] | None = None
    cache_argument: str = "cache_template"
    parameters: Sequence[str] | None = None

    @property
    def caches(self) -> Sequence[str]:
        """The functions that keep vectors in files."""
        if self.cache is None:
            return ()
        return (self.cache,) if isinstance(self.cache, str) else self.cache


@dataclass(frozen=True)
class HparamsSummary:
    """What an adapter reads in an hparams file, without importing its toolkit.

    Attributes:
        editor: the editor's name.
        model_name: what the toolkit would load.
        layer: the layer after which attention can drift.
        layer_template: where the layers are, e.g. ``"model.layers.{}"``.
        sadr: the value under ``sadr``, None if there is none.
        hparams: the class that the file is for, as `EditPoint.hparams` has it; None if any of the
            editor's name will do.
        settings: all that the file says; a run's results depend on it.
    """

    editor: str
    model_name: str
    layer: int
    layer_template: str
    sadr: Any
    hparams: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EditorOptions:
    """How to load the editor and the model of an hparams file, for an evaluation.

    Attributes:
        seed: what the toolkit's own draws, such as its context prompts, start from.
        dtype: torch's name of the type of the model's weights; None for the toolkit's choice.
        trust_remote_code: whether code that comes with a model may run.
    """

    seed: int = 0
    dtype: str | None = None
    trust_remote_code: bool = False
