"""The loss terms that plugins give, with checks."""

from __future__ import annotations

import math

from torch import Tensor

from ..config import SadrConfig
from ..errors import AttachmentError, ConfigError
from ..terms import LossTerm, RunningEdit

OWN = {
    "drift": "sadr.gamma and others beside it",
    "keep": "under sadr.keep",
    "keep_distracted": "under sadr.keep",
}
"""The plugin's own terms, and where their settings are."""


def terms_of(running: RunningEdit, config: SadrConfig) -> list[LossTerm]:
    """Return all terms of an edit's loss, SADR's first.

    Raises:
        AttachmentError: a plugin gives something else, or two terms have one name.
        ConfigError: ``sadr.terms`` names a term that no plugin gives.
    """
    terms: list[LossTerm] = []
    for given in running.hooks.sadr_loss_terms(running=running, config=config):
        if not isinstance(given, (list, tuple)):
            raise AttachmentError(f"sadr_loss_terms: expected a list of terms, got {given!r}")
        terms += map(_checked, given)
    names = [term.name for term in terms]
    for name in names:
        if names.count(name) > 1:
            raise AttachmentError(f"sadr_loss_terms: two terms are called {name!r}")
    for name in config.terms:
        if name in OWN:
            raise ConfigError(f"sadr.terms.{name}: this term's settings are {OWN[name]}")
        if name not in names:
            there = ", ".join(names)
            raise ConfigError(f"sadr.terms.{name}: no plugin gives such a term; there are {there}")
    return terms


def value_of(term: LossTerm) -> Tensor:
    """Return a term's value at this step, a scalar.

    Raises:
        AttachmentError: the value is not a scalar tensor.
    """
    value: object = term.value()
    if not isinstance(value, Tensor) or value.dim() != 0:
        given = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
        raise AttachmentError(
            f"sadr_loss_terms: the value of the term {term.name!r} has to be a scalar tensor, got "
            f"{given}"
        )
    return value


def _checked(term: object) -> LossTerm:
    if not isinstance(term, LossTerm) or not isinstance(term.name, str):
        raise AttachmentError(
            f"sadr_loss_terms: expected a term with name, weight and value(), got {term!r}"
        )
    weight = term.weight
    if not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight < 0:
        raise AttachmentError(
            f"sadr_loss_terms: the weight of {term.name!r} has to be a number of at least 0, got "
            f"{weight!r}"
        )
    return term
