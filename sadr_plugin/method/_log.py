"""The log lines of an edit with SADR, at its start and at its end."""

from __future__ import annotations

import logging

from ..config import SadrConfig
from ..events import Report

LOGGER = logging.getLogger("sadr_plugin")

LIKELY_IN = 0.5
"""An edit whose target is the likeliest answer after fewer of its prompts hardly holds."""


def log_start(
    report: Report, config: SadrConfig, watched: tuple[int, int], limit: int | None
) -> None:
    """Log what is edited, what is watched and what ends the edit.

    Args:
        report: the edit, before its first step.
        config: the user's settings.
        watched: the number of watched layers, and of heads in each.
        limit: the largest number of steps that the editor takes. None if it is not known.
    """
    rules = ["by the editor's own rule"]
    if config.stop_at is not None:
        rules.insert(0, f"once the target's probability is {config.stop_at:g}")
    if limit is not None:
        rules.append(f"after {limit} steps at the latest")
    LOGGER.info(
        "SADR: %s edits layer %d with gamma = %g; attention is watched in %d layers of %d heads; "
        "it stops %s",
        report.editor,
        report.layer,
        report.gamma,
        *watched,
        ", ".join(rules),
    )


def log_end(report: Report, error: BaseException | None) -> None:
    """Log how the edit ended, with its last values."""
    ended = "ended" if error is None else f"was broken off ({type(error).__name__})"
    if not report.steps:
        LOGGER.info("SADR: %s %s without a step", report.editor, ended)
        return
    last = report.steps[-1]
    others = "".join(
        f"; {name} {value:.4g} at last (weight {report.weights[name]:g})"
        for name, value in last.terms.items()
        if name != "drift"
    )
    target = "not known" if last.target is None else f"{last.target:.3f}"
    LOGGER.info(
        "SADR: %s %s after %d steps: penalty %.4g at first, %.4g at last%s; probability of the "
        "target %s; %.1f s, with %.0f %% of each forward through the layers left out",
        report.editor,
        ended,
        len(report.steps),
        next((s.penalty for s in report.steps if s.penalty), 0.0),
        last.penalty,
        others,
        target,
        report.seconds,
        100 * report.reused,
    )


def log_what_is_missing(report: Report, limit: int | None) -> None:
    """Warn of an edit that ended before its target was as likely as it should be.

    Args:
        report: the edit, which has ended without an error.
        limit: as for `log_start`.
    """
    if not report.steps or report.reached is None:
        return
    last = report.steps[-1]
    unlikely = last.likeliest is not None and last.likeliest < LIKELY_IN
    if report.stopped is not False and not unlikely:
        return
    held = [name for name, weight in report.weights.items() if weight > 0]
    advice = ["more steps (num_grad_steps)"] if len(report.steps) == limit else []
    advice += [f"a smaller weight of {' and '.join(held)}"] if held else []
    advice += ["a smaller stop_at"] if report.stopped is False and not unlikely else []
    advice += ["a larger learning rate"]
    below = f", below stop_at {report.stop_at:g}" if report.stopped is False else ""
    first = (
        ""
        if last.likeliest is None
        else (f" It is the likeliest answer after {last.likeliest:.0%} of the rewriting prompts.")
    )
    LOGGER.warning(
        "SADR: %s ended after %d steps with the target at probability %.3f%s.%s What may help: %s",
        report.editor,
        len(report.steps),
        report.reached,
        below,
        first,
        ", ".join(advice),
    )
