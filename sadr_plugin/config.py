"""What a user may say under ``sadr:`` in an hparams file."""

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
    """A float, also from text such as ``1e-2``, which YAML 1.1 reads as a string."""
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
    """``"10-19"`` as ``(10, …, 19)``; anything else is left to pydantic to judge."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
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
"""What is asked of any subject: a person, a place, a work or an organisation."""


def _openings(value: Any) -> Any:
    """A list of texts with the subject's place in each."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError('expected a list of texts with "{}" in each')
    for text in value:
        if not isinstance(text, str) or text.count("{}") != 1:
            raise ValueError(f'expected "{{}}" once in each text, {text!r} has it otherwise')
    return tuple(value)


class KeepConfig(BaseModel):
    """What the edited model is to go on saying: of the subject, and of others after the edit.

    Two terms of the loss, each KL(unedited ‖ edited) of next-token distributions, in nats,
    averaged over tokens and then over texts. ``keep`` is over texts that begin with or hold the
    subject: ``openings``, and what the model itself writes of it. ``keep_distracted`` is over what
    the model writes of anything, after the edited statement.

    In an hparams file: ``keep: true`` for the defaults, or a mapping with any of the fields below.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Weight = 1.0
    """Weight of the texts about the subject; 0 for none."""

    openings: Annotated[tuple[str, ...], BeforeValidator(_openings)] = OPENINGS
    """Texts about the subject, which stands at ``{}``."""

    texts: Annotated[StrictInt, Field(ge=0)] = 0
    """How many texts the model writes about the subject. Those that state the new object or the
    old are left out."""

    others: Annotated[StrictInt, Field(ge=0)] = 4
    """How many texts the model writes about anything, to stand after the edited statement."""

    length: Annotated[StrictInt, Field(ge=1)] = 12
    """How many tokens each text of the model's own has."""

    parts: Annotated[StrictInt, Field(ge=1)] = 2
    """In how many parts the texts take turns: each step runs one part, for as much less time."""

    distracted: Weight = 4.0
    """Weight of the texts after the edited statement; 0 for none."""

    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] = 0
    """What the model's texts are drawn from: an edit is the same each time."""


def _keep(value: Any) -> Any:
    """``true`` and ``false`` as settings; anything else is left to pydantic to judge."""
    if isinstance(value, bool):
        return KeepConfig() if value else None
    if value is not None and not isinstance(value, (dict, KeepConfig)):
        raise ValueError(f"expected true, false or a mapping of {_fields(KeepConfig)}")
    return value


class SadrConfig(BaseModel):
    """The settings of Selective Attention Drift Restriction for one edit.

    In an hparams file: ``sadr: true`` for the defaults, ``sadr: false`` or no key for none,
    or a mapping with any of the fields below.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gamma: Annotated[float, BeforeValidator(_number), Field(ge=0)] | None = None
    """Weight γ of the penalty in the loss (paper, section 5.1), a plain factor.
    None takes the editor's published value: ROME 1e-2, MEMIT 5e-3, PMET 8e-2
    (GPT-J 6B; small models want more)."""

    divergence: Divergence = "kl"
    """How far a row has moved: ``kl`` is KL(before ‖ now), the paper's; ``js`` is the
    Jensen-Shannon divergence; ``l2`` the sum of squared differences. In nats, except ``l2``."""

    select_heads: StrictBool = True
    """True restricts only heads that attend to the subject more than any head of their layer
    did before the edit (paper, section 5.1, "selective"); False restricts all heads."""

    layers: Annotated[
        tuple[Annotated[StrictInt, Field(ge=0)], ...] | None, BeforeValidator(_layer_indices)
    ] = None
    """Layers whose attention is restricted, as a list of indices from 0 or an inclusive range
    such as ``"10-19"``. None takes every layer after the edited one; a listed layer at or
    before it cannot drift and is left out."""

    num_grad_steps: Annotated[StrictInt, Field(ge=1)] | None = None
    """Optimisation steps of the edit; None keeps the editor's own number. The paper uses 80
    for ROME, 20 for MEMIT and 40 for PMET (appendix on hyper-parameters)."""

    stop_at: Annotated[float, BeforeValidator(_number), Field(gt=0, le=1)] | None = None
    """Stop once the edit is made: when the probability of the target, averaged over its tokens
    and over the rewriting prompts, has reached this, 0 to 1. None leaves it to the editor's own
    rule, which the penalty delays, being part of the loss."""

    reuse: StrictBool = True
    """Leave out of each forward of the loop what the vector cannot change: the layers below the
    edited one and the tokens before the edited one. The vector found is the same, rounding aside;
    where it would not be, all runs in full by itself. False runs every forward in full."""

    keep: Annotated[KeepConfig | None, BeforeValidator(_keep)] = None
    """Beyond SADR: keep what the model says of the subject, and of others after the edited
    statement, by terms of the loss of their own; see `KeepConfig`. None for none."""

    terms: dict[str, Any] = Field(default_factory=dict)
    """Settings of loss terms that other plugins give, by the term's name; they judge them."""

    def weight(self, default: float) -> float:
        """The γ in force: this configuration's, or ``default``, the editor's own."""
        return default if self.gamma is None else self.gamma

    @classmethod
    def parse(cls, value: Any) -> SadrConfig | None:
        """The configuration that ``value``, found under ``sadr``, stands for.

        Returns None where ``value`` is None or False. Raises `ConfigError`, naming the key,
        for anything that is not True, a mapping of known fields or a `SadrConfig`.
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
    """Pydantic's findings on one line each, in the words of the hparams file."""
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
