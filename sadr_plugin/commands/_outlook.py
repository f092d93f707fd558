"""What can be expected of the γ and the stop in force, by what was measured.

The figures are those of docs/results.md and docs/use-in-easyedit.md.
"""

from __future__ import annotations

from ..adapter import EditPoint
from ..config import SadrConfig

SMALL = 10**9
"""Parameters. Answers were measured on models of up to 270 million; the paper has GPT-J 6B."""

WEAK = 0.1
"""A γ below this was found to do next to nothing on small models."""

TUNE = "measure with `sadr eval`, or search with `sadr tune`"


def outlook(
    point: EditPoint, config: SadrConfig, steps: int | None, parameters: int | None
) -> list[str]:
    """Return sentences about the γ and the stop in force.

    Args:
        point: the editor's declaration.
        config: the user's settings.
        steps: the largest number of steps of an edit. None if it is not known.
        parameters: the size of the model. None if it is not known.
    """
    gamma = config.weight(point.gamma)
    whose = " (the editor's default)" if config.gamma is None else ""
    end = "" if steps is None else f", after {steps} steps at the latest"
    if config.stop_at is None:
        stop = f"it stops by the editor's own rule{end}"
    else:
        stop = f"it stops once the target has a probability of {config.stop_at:g}{end}"
    found = [f"γ is {gamma:g}{whose}; {stop}"]
    if parameters is not None:
        found.append(_of_gamma(gamma, parameters))
    if config.stop_at is None and gamma > 0:
        found.append(
            "no early stop is set (stop_at); on SmolLM2-135M, an early stop alone gave two thirds "
            "of what ROME gained"
        )
    return found


def _of_gamma(gamma: float, parameters: int) -> str:
    if gamma == 0:
        return "a γ of 0 leaves the edit as it is without the penalty"
    if parameters >= SMALL:
        return (
            "nobody has measured a model of this size with this plugin; the paper has a γ of 0.005 "
            f"to 0.08, for GPT-J 6B: {TUNE}"
        )
    if gamma < WEAK:
        return (
            "on so small a model, expect next to nothing of such a γ: on SmolLM2-135M, 0.01 "
            "lowered the penalty of ROME by one percent in six steps; good settings there have a γ "
            f"from 1 to 10 and a stop_at of 0.7 to 0.8: {TUNE}"
        )
    return (
        "good settings on SmolLM2-135M have a γ from 1 to 10 and a stop_at of 0.7 to 0.8; settings "
        f"do not carry over from one model to another: {TUNE}"
    )
