"""The arms of an evaluation, from the command line and the hparams file."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from ..config import SadrConfig
from ..errors import ConfigError, EvaluationError
from ..evaluation import Arm, Result
from ..evaluation._summary import scored_in_all

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


@contextlib.contextmanager
def expecting_results(results: Sequence[Result], arms: Sequence[str]) -> Iterator[None]:
    """Check, after a block that draws the results of a run, that every arm has some.

    Without them, the block may end with the error of a chart that has nothing to draw.

    Args:
        results: the results of the run.
        arms: the names of the arms with an edit.

    Raises:
        EvaluationError: an arm has no result without an error, or no record has one in every arm. A
            run whose tables have no figures has not succeeded.
    """
    lacking = _lacking(results, arms)
    try:
        yield
    except EvaluationError:
        if lacking is None:
            raise
    if lacking is not None:
        raise EvaluationError(lacking)


def _lacking(results: Sequence[Result], arms: Sequence[str]) -> str | None:
    """Return what keeps the arms from being compared. None if nothing does."""
    # A checkpoint asks about the records of the edits before it once more.
    made = [r for r in results if r.when != "checkpoint" or r.error is not None]
    failed = {arm: [r.error for r in made if r.arm == arm and r.error is not None] for arm in arms}
    counts = {arm: f"{arm} (failed: {len(failed[arm])})" for arm in arms}
    without = [arm for arm in arms if not any(r.arm == arm and r.error is None for r in made)]
    first = next((errors[0] for errors in failed.values() if errors), "there are no records")
    if without:
        shown = ", ".join(counts[arm] for arm in without)
        return f"no edit succeeded in {shown}; the first: {first}"
    if not any(scored_in_all(made, arms).values()):
        shown = ", ".join(counts[arm] for arm in arms if failed[arm])
        return f"no record was edited in every arm; edits failed in {shown}; the first: {first}"
    return None
