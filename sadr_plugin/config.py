"""The settings that a user can write under ``sadr:`` in an hparams file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
)

from .errors import ConfigError

Divergence = Literal["kl", "js", "l2"]

_RANGE = re.compile(r"\s*(\d+)\s*-\s*(\d+)\s*")


def _number(value: Any) -> float:
    """Convert a value to a finite float. Text is accepted: YAML 1.1 reads ``1e-2`` as a string.

    Raises:
        ValueError: the value is not a finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("expected a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError("expected a number") from error
    if not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number


def _layer_indices(value: Any) -> Any:
    """Turn ``"10-19"`` into ``(10, …, 19)`` and an index into a tuple. Pydantic checks the rest.

    Raises:
        ValueError: the text is not an inclusive range, or the range ends before it begins.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, (list, tuple)) and not value:
        raise ValueError("expected at least one layer")
    if not isinstance(value, str):
        return value
    match = _RANGE.fullmatch(value)
    if match is None or len(match[1]) > 6 or len(match[2]) > 6:
        raise ValueError('expected a list of layer indices or an inclusive range such as "10-19"')
    first, last = int(match[1]), int(match[2])
    if first > last:
        raise ValueError(f"the range {value!r} ends before it begins")
    return tuple(range(first, last + 1))


def _at_least_0(value: Any) -> float:
    number = _number(value)
    if number < 0:
        raise ValueError("expected a number of at least 0")
    return number


Weight = Annotated[float, BeforeValidator(_at_least_0)]

OPENINGS = (
    "{} was",
    "{} is known for",
    "{} is famous because",
    "{} is located in",
    "{} was born in",
    "{} was founded in",
    "{} was created by",
    "{} works as",
    "{} belongs to",
    "The language of {} is",
    "The country of {} is",
    "The field of {} is",
)
"""Beginnings of sentences that fit any subject: a person, a place, a work or an organisation."""


def _openings(value: Any) -> Any:
    """Check a list of texts, each with one ``{}`` for the subject, and return it as a tuple.

    Raises:
        ValueError: the value is not such a list.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError('expected a list of texts with "{}" in each')
    for text in value:
        if not isinstance(text, str) or text.count("{}") != 1:
            raise ValueError(
                f'expected "{{}}" exactly once in each text; this text is wrong: {text!r}'
            )
    return tuple(value)


class KeepConfig(BaseModel):
    """Settings of the two loss terms that keep other answers of the model as they were.

    Both terms are KL(unedited ‖ edited) of next-token distributions, in nats. Each is averaged over
    the tokens of a text and then over the texts.

    ``keep`` uses texts that begin with the subject or contain it: the ``openings``, and texts that
    the model writes about the subject. ``keep_distracted`` uses texts that the model writes about
    anything. Each of them is placed after the edited statement.

    In an hparams file, ``keep: true`` takes the defaults. A mapping sets any of the fields below.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Weight = 1.0
    """Weight of the term ``keep``. 0 switches the term off."""

    openings: Annotated[tuple[str, ...], BeforeValidator(_openings)] = OPENINGS
    """Texts about the subject. ``{}`` stands for the subject, exactly once in each text."""

    texts: Annotated[StrictInt, Field(ge=0)] = 0
    """Number of texts that the model writes about the subject.

    Texts that state the new object or the old object are left out.
    """

    others: Annotated[StrictInt, Field(ge=0)] = 4
    """Number of texts that the model writes about anything, after the edited statement."""

    length: Annotated[StrictInt, Field(ge=1)] = 12
    """Number of tokens in each text that the model writes."""

    parts: Annotated[StrictInt, Field(ge=1)] = 2
    """Number of parts into which the texts are divided.

    Each step runs one part, in turn, so a step takes less time.
    """

    distracted: Weight = 4.0
    """Weight of the term ``keep_distracted``. 0 switches the term off."""

    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = 0
    """Random seed for the texts that the model writes. It makes an edit the same each time."""


def _keep(value: Any) -> Any:
    """Turn ``true`` and ``false`` into settings. Pydantic checks the rest.

    Raises:
        ValueError: the value is not true, false or a mapping.
    """
    if isinstance(value, bool):
        return KeepConfig() if value else None
    if value is not None and not isinstance(value, (dict, KeepConfig)):
        raise ValueError(f"expected true, false or a mapping of {_fields(KeepConfig)}")
    return value


class SadrConfig(BaseModel):
    """The settings of Selective Attention Drift Restriction for one edit.

    In an hparams file, ``sadr: true`` takes the defaults. ``sadr: false``, or no key, means no
    SADR. A mapping sets any of the fields below.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gamma: Annotated[float, BeforeValidator(_number), Field(ge=0)] | None = None
    """Weight γ of the penalty in the loss (paper, section 5.1), a plain factor.

    None takes the editor's default. ROME 1e-2, MEMIT 5e-3 and PMET 8e-2 are the paper's values, for
    GPT-J 6B. Every other editor has that of the nearest of these. Small models need larger ones.
    """

    divergence: Divergence = "kl"
    """The measure of how far an attention row has moved.

    ``kl`` is KL(before ‖ now), as in the paper. ``js`` is the Jensen-Shannon divergence. ``l2`` is
    the sum of squared differences. ``kl`` and ``js`` are in nats.
    """

    select_heads: StrictBool = True
    """Whether to restrict only selected heads (paper, section 5.1, "selective").

    True restricts a head only while it attends to the subject more than any head of its layer did
    before the edit. False restricts all heads.
    """

    layers: Annotated[
        tuple[Annotated[StrictInt, Field(ge=0)], ...] | None, BeforeValidator(_layer_indices)
    ] = None
    """The layers whose attention is restricted.

    A list of indices from 0, or an inclusive range such as ``"10-19"``. None takes every layer
    after the edited one. The attention of the edited layer and of those before it cannot drift. If
    they are listed, they are left out.
    """

    num_grad_steps: Annotated[StrictInt, Field(ge=1)] | None = None
    """Number of optimisation steps of the edit. None keeps the editor's own number.

    The paper uses 80 for ROME, 20 for MEMIT and 40 for PMET (appendix on hyper-parameters).
    """

    stop_at: Annotated[float, BeforeValidator(_number), Field(gt=0, le=1)] | None = None
    """The probability of the target at which the optimisation stops, above 0 and up to 1.

    The probability is averaged over the tokens of the target and over the rewriting prompts. None
    leaves the decision to the editor's own rule. The penalty is part of the loss, so it delays that
    rule.
    """

    reuse: StrictBool = True
    """Whether each forward of the loop leaves out what the vector cannot change.

    That is: the layers below the edited layer, and the tokens before the edited token. The vector
    found is the same, apart from rounding. Where it would not be the same, the plugin runs every
    forward in full by itself. False runs every forward in full.
    """

    keep: Annotated[KeepConfig | None, BeforeValidator(_keep)] = None
    """Settings of two more loss terms, which are not part of SADR; see `KeepConfig`.

    They keep what the model says about the subject, and about others after the edited statement.
    None adds no such term.
    """

    terms: dict[str, Any] = Field(default_factory=dict)
    """Settings of loss terms from other plugins, by the name of the term. Those plugins check them;
    see `term_settings`.
    """

    def weight(self, default: float) -> float:
        """Return the γ in force: the configured value, or ``default``, the editor's own."""
        return default if self.gamma is None else self.gamma

    def term_settings(self, name: str, *known: str) -> dict[str, Any] | None:
        """Return the settings of a loss term, for the plugin that gives the term.

        Args:
            name: the name of the term, the key under ``sadr.terms``.
            known: the names of all its settings.

        Returns:
            None if there are no settings for this term.

        Raises:
            ConfigError: they are not a mapping, or a key is not one of ``known``.
        """
        settings = self.terms.get(name)
        if settings is None:
            return None
        if not isinstance(settings, dict):
            raise ConfigError(
                f"sadr.terms.{name}: expected a mapping of {', '.join(known)}, got {settings!r}"
            )
        for key in settings:
            if key not in known:
                raise ConfigError(
                    f"sadr.terms.{name}.{key}: unknown key; known are {', '.join(known)}"
                )
        return dict(settings)

    @classmethod
    def parse(cls, value: Any) -> SadrConfig | None:
        """Turn ``value``, found under ``sadr``, into a configuration.

        Returns:
            None if ``value`` is None or False.

        Raises:
            ConfigError: ``value`` is not True, a mapping of known fields or a `SadrConfig`. The
                message names the key.
        """
        if value is None or value is False:
            return None
        if value is True:
            return cls()
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            raise ConfigError(
                f"sadr: expected true, false or a mapping of {_fields(cls)}, got {value!r}"
            )
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise ConfigError(_explain(error, cls)) from None


def _fields(config: type[BaseModel]) -> str:
    return ", ".join(config.model_fields)


def _explain(error: ValidationError, config: type[SadrConfig]) -> str:
    """Describe pydantic's findings in one line, with the key names of the hparams file."""
    findings: dict[str, str] = {}
    for finding in error.errors():
        location = finding["loc"]
        key = ".".join(part for part in location if isinstance(part, str))
        if finding["type"] == "extra_forbidden":
            known = _fields(KeepConfig if key.startswith("keep.") else config)
            findings[key] = f"sadr.{key}: unknown key; known are {known}"
        else:
            message = finding["msg"].removeprefix("Value error, ")
            index = "".join(f"[{part}]" for part in location if isinstance(part, int))
            findings.setdefault(key, f"sadr.{key}{index}: {message}, got {finding['input']!r}")
    return "; ".join(findings.values())
