"""What an adapter declares about its editors, about one edit and about one hparams file.

This module imports nothing heavy, because adapters are imported while torch is being imported.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import AttachmentError, ConfigError, PositionError

if TYPE_CHECKING:
    from typing import TypeGuard

    from torch import nn

EditedToken = Literal["subject_last", "subject_first", "subject_first_after_last", "last"]


@dataclass(frozen=True)
class Prompt:
    """A rewriting prompt without its target. It records the place of the subject.

    The text is ``prefix + subject + suffix``.

    Attributes:
        prefix: the text before the subject.
        subject: the subject.
        suffix: the text after the subject, up to the target.
    """

    prefix: str
    subject: str
    suffix: str

    @classmethod
    def from_template(cls, template: str, subject: str) -> Prompt:
        """Fill ``subject`` into the one ``{}`` of ``template``.

        Raises:
            PositionError: there is not exactly one ``{}``, so the edited occurrence is not clear;
                or the subject is empty.
        """
        parts = template.split("{}")
        if len(parts) != 2:
            raise PositionError(
                f"the prompt {template!r} must hold the subject {subject!r} exactly once, "
                f'written as "{{}}"; it does {len(parts) - 1} times'
            )
        if not subject.strip():
            raise PositionError(
                f"the subject of the prompt {template!r} is empty; give the edit a subject"
            )
        return cls(parts[0], subject, parts[1])

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.prefix + self.subject + self.suffix


@dataclass(frozen=True)
class Edit:
    """One run of an editor's optimisation loop: what is edited, where, and with which prompts.

    Attributes:
        model: the model that is edited, as the toolkit calls it.
        tokenizer: the model's tokenizer.
        prompts: the rewriting prompts without their target, in the order of the loop's batch. If
            the function itself makes the prompts, a function that returns them once the loop runs.
        layer: the layer whose output receives the vector. Attention in later layers can drift.
        layer_template: the path of the layers, such as ``"model.layers.{}"``.
        edited_token: the token of the prompt at which the vector is added.
        zero_start: whether the vector is zero in the loop's first forward. That forward is then the
            baseline. If False, one more forward before the loop gives the baseline.
        counts_from_left: whether the toolkit counts positions from the start of a row and ignores
            padding. A batch that is padded on the left then causes a warning.
        target: the text that the edit makes the model say after each prompt, with its leading
            space. ``stop_at`` uses it if `EditPoint.labels` is None. Without either, ``stop_at`` is
            refused. ``keep`` states the target before texts about other things.
        old_target: the text that the model said before, if it is known. ``keep`` leaves out texts
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
        """Return the prompts. Some editors know them only once the loop runs.

        Raises:
            AttachmentError: the adapter's function returned something else.
        """
        if not callable(self.prompts):
            return self.prompts
        prompts: object = self.prompts()
        if not are_prompts(prompts):
            raise AttachmentError(
                f"{_name(self.prompts)}, which is the prompts of an Edit, has to return a list of "
                f"Prompts with texts, got {reprlib.repr(prompts)}"
            )
        return prompts


@dataclass(frozen=True)
class EditPoint:
    """An editor's declaration: the function with its loop, and how to read its arguments.

    Attributes:
        editor: the editor's name, as users write it.
        function: the function with the loop, ``"package.module:function"``, where it is defined.
        hparams: the editor's hparams class, ``"package.module:Class"``. The class learns to take a
            ``sadr`` key.
        gamma: γ if the user gives none.
        read: a function that turns the arguments of ``function``, by name, into an `Edit`. It is
            called only for edits with SADR.
        hparams_argument: the name of the argument that holds the hparams object.
        steps_attribute: the attribute of the hparams object that holds the number of steps. None if
            there is none; ``num_grad_steps`` is then refused.
        labels: the name of the function's variable that holds the target's tokens, a tensor
            [prompts, tokens]. Each position holds the token that the logits of that position should
            predict, or -100 for none. ``stop_at`` reads it. None if there is no such variable.
        cache: the function that stores found vectors in files and reads them back,
            ``"package.module:function"``. It can be a list of several, or None. An edit with SADR
            calls it so that it uses no files.
        cache_argument: the argument of these functions that holds the template of the file names.
            None has to mean no files. If ``parameters`` is given, a function without this argument
            stores no files and is left alone. Versions of research code may lack the argument.
        parameters: the parameters of ``function``, in order. Give them if the module has such a
            common name that it may belong to another project. A function with other parameters is
            then left alone, without a message. So is one whose hparams class is not a dataclass
            with ``steps_attribute``. But if another function of the class fits, the function
            refuses hparams with a flag.
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

    def __post_init__(self) -> None:
        """Check the form of the names, ``gamma`` and ``read``.

        Raises:
            AttachmentError: a name is not ``"package.module:name"``, or one of the two is of
                another kind.
        """
        for name in (self.function, self.hparams, *self.caches):
            module, _, inner = name.partition(":")
            if not module or not inner.isidentifier():
                raise AttachmentError(
                    f'{self.editor}: expected "package.module:name", the name of a function or '
                    f"class of a module, got {name!r}; a method cannot be declared: move its loop "
                    "into a function"
                )
        gamma: object = self.gamma
        if not isinstance(gamma, Real) or not 0 <= float(gamma) < math.inf:
            raise AttachmentError(
                f"{self.editor}: gamma has to be a number of at least 0, got {gamma!r}"
            )
        if not callable(self.read):
            raise AttachmentError(f"{self.editor}: read has to be a function, got {self.read!r}")

    def edit(self, arguments: Mapping[str, Any]) -> Edit:
        """Return what ``read`` makes of the arguments of ``function``, after a check of its types.

        Raises:
            AttachmentError: ``read`` returns something else than an `Edit`, or a field of it has a
                wrong type.
        """
        edit: object = self.read(arguments)
        if not isinstance(edit, Edit):
            raise AttachmentError(
                f"{self.editor}: {_name(self.read)} has to return an Edit, got {reprlib.repr(edit)}"
            )
        for name, (expected, fits) in _expected_in_edit().items():
            value = getattr(edit, name)
            if not fits(value):
                raise AttachmentError(
                    f"{self.editor}: {_name(self.read)} returns an Edit whose {name} has to be "
                    f"{expected}, got {reprlib.repr(value)}"
                )
        return edit

    @property
    def caches(self) -> Sequence[str]:
        """The functions that store vectors in files."""
        if self.cache is None:
            return ()
        return (self.cache,) if isinstance(self.cache, str) else self.cache


def _name(function: Any) -> str:
    """Return a function's module and name, for an error."""
    name = getattr(function, "__qualname__", None)
    return reprlib.repr(function) if name is None else f"{function.__module__}.{name}"


def are_prompts(value: object) -> TypeGuard[Sequence[Prompt]]:
    """Whether a value is a list of prompts whose parts are texts."""
    return isinstance(value, Sequence) and all(
        isinstance(prompt, Prompt)
        and all(isinstance(part, str) for part in (prompt.prefix, prompt.subject, prompt.suffix))
        for prompt in value
    )


def _expected_in_edit() -> dict[str, tuple[str, Callable[[Any], bool]]]:
    """Return what each field of an `Edit` has to be, in words and as a check."""
    from torch import nn

    def is_a(*types: type) -> Callable[[Any], bool]:
        return lambda value: isinstance(value, types)

    text = ("a text", is_a(str))
    text_or_none = ("a text or None", is_a(str, type(None)))
    yes_or_no = ("True or False", is_a(bool))
    return {
        "model": ("a torch module", is_a(nn.Module)),
        "tokenizer": ("a tokenizer", callable),
        "prompts": (
            "a list of Prompts with texts, or a function that returns one",
            lambda value: callable(value) or are_prompts(value),
        ),
        "layer": ("a whole number", is_a(Integral)),
        "layer_template": text,
        "edited_token": text,
        "zero_start": yes_or_no,
        "counts_from_left": yes_or_no,
        "target": text_or_none,
        "old_target": text_or_none,
    }


@dataclass(frozen=True)
class Findings:
    """What an adapter finds in an hparams file, one text each.

    Attributes:
        faults: why an edit with the file would fail.
        lacking: files that the edit needs and that are missing or cannot be used, such as layer
            statistics. A command can make them.
        remarks: what does not make the edit fail, and may do harm or surprise the user.
    """

    faults: Sequence[str] = ()
    lacking: Sequence[str] = ()
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class HparamsSummary:
    """What an adapter reads from an hparams file, if possible without importing its toolkit.

    Attributes:
        editor: the editor's name.
        model_name: the model that the toolkit would load.
        layer: the layer after which attention can drift.
        layer_template: the path of the layers, such as ``"model.layers.{}"``.
        sadr: the value under ``sadr``, or None if there is none.
        hparams: the class that the file is for, as in `EditPoint.hparams`. None if any class of
            this editor's name fits.
        settings: everything in the file. The results of a run depend on it.
        remarks: what may make edits with this file fail or do harm, one text each. ``sadr doctor``
            shows them.
        find_model: gives the folder of a model whose ``model_name`` transformers does not know.
        check: a function that compares the file with the toolkit and with the model, and gives its
            `Findings`. It gets the model without weights: every tensor is on torch's device
            ``meta``. It gets None if the model cannot be built.
        calls: a function that builds the toolkit's hparams object and gives the arguments, by name,
            with which the toolkit would call `EditPoint.function` for an example fact. There is one
            mapping for each call. It gets the model without weights, and the tokenizer. It raises
            an error of the plugin if the object cannot be built. ``sadr doctor`` runs the checks of
            an edit on these arguments.
    """

    editor: str
    model_name: str
    layer: int
    layer_template: str
    sadr: Any
    hparams: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    find_model: Callable[[], Path] | None = None
    check: Callable[[nn.Module | None], Findings] | None = None
    calls: Callable[[nn.Module, Any], Sequence[Mapping[str, Any]]] | None = None

    def __post_init__(self) -> None:
        """Check the types that the plugin relies on.

        Raises:
            AttachmentError: a field has another type.
        """
        for name, kind in (("editor", str), ("model_name", str), ("layer", int)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise AttachmentError(
                    f"HparamsSummary.{name}: expected {kind.__name__}, got {value!r}"
                )


@dataclass(frozen=True)
class EditorOptions:
    """How to load the editor and the model of an hparams file for an evaluation.

    Attributes:
        seed: the random seed for the toolkit's own draws, such as its context prompts.
        dtype: torch's name of the type of the model's weights. None leaves the choice to the
            toolkit.
        trust_remote_code: whether code that comes with a model may run.
    """

    seed: int = 0
    dtype: str | None = None
    trust_remote_code: bool = False


def edited_layers(file: Path, layers: object) -> list[int]:
    """Return the edited layers of an hparams file.

    Raises:
        ConfigError: ``layers`` is not a list of indices. The message names the file.
    """
    if not isinstance(layers, list) or not layers or not all(type(i) is int for i in layers):
        raise ConfigError(f"{file}: layers: expected a list of indices, got {layers!r}")
    return layers
