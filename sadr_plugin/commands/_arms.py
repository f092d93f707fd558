"""The arms of an evaluation, from the command line and the hparams file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from ..config import SadrConfig
from ..errors import ConfigError, EvaluationError
from ..evaluation import Arm, Result

CHANGES_PLAIN = {"stop_at", "num_grad_steps", "terms"}
"""Settings that change an edit whose γ is 0."""


def arms(names: str, configured: Any, gammas: Sequence[float]) -> list[Arm]:
    """Return the arms. SADR's settings come from the hparams file, γ from the option if given.

    Args:
        names: ``--arms``. If empty: plain, sadr and, if the file has keep, sadr+keep.
        configured: the value under ``sadr:`` in the hparams file.
        gammas: the values of ``--gamma``. Each makes an arm of its own.

    Raises:
        ConfigError: an option is not valid.
    """
    config = SadrConfig.parse(configured) or SadrConfig()
    settings = config.model_dump(exclude_unset=True)
    keep = {"keep": settings.pop("keep", None) or True}

    def of_each_gamma(name: str, more: dict[str, Any]) -> list[Arm]:
        if len(gammas) > 1:
            return [Arm(f"{name} {g:g}", {**settings, **more, "gamma": g}) for g in gammas]
        return [Arm(name, {**settings, **more, **({"gamma": gammas[0]} if gammas else {})})]

    sadr = of_each_gamma("sadr", {})
    known = {
        "plain": [Arm("plain", None)],
        "control": [Arm("control", {**settings, "gamma": 0.0})],
        "sadr": sadr,
        "keep": [Arm("keep", {**settings, **keep, "gamma": 0.0})],
        "sadr+keep": of_each_gamma("sadr+keep", keep),
    }
    names = names or ("plain,sadr" if config.keep is None else "plain,sadr,sadr+keep")
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        raise ConfigError(f"--arms: expected some of {', '.join(known)} with commas, got {names!r}")
    if len({arm.name for arm in sadr}) < len(sadr):
        raise ConfigError(f"--gamma: expected different values, got {gammas}")
    if gammas and not {"sadr", "sadr+keep"} & set(wanted):
        raise ConfigError(f"--gamma: there is no arm sadr or sadr+keep in {names!r}")
    if {"plain", "control"} <= set(wanted) and not CHANGES_PLAIN & settings.keys():
        warnings.warn(
            "--arms: control is the same edit as plain, because the file sets neither stop_at nor "
            "num_grad_steps under sadr",
            stacklevel=2,
        )
    found = [arm for name in wanted for arm in known[name]]
    for arm in found:
        SadrConfig.parse(arm.sadr)
    return found


def expect_results(results: Sequence[Result], arms: Sequence[str]) -> None:
    """Check, at the end of a run, that every arm has a result without an error.

    Args:
        results: the results of the run.
        arms: the names of the arms with an edit.

    Raises:
        EvaluationError: an arm has none. A run whose tables have no figures has not succeeded.
    """
    for arm in arms:
        errors = [result.error for result in results if result.arm == arm]
        if None not in errors:
            first = f"; the first: {errors[0]}" if errors else ""
            raise EvaluationError(
                f"no edit of the arm {arm} succeeded: all {len(errors)} failed{first}"
            )
