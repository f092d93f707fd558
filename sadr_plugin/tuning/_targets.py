"""What settings are to reach, and how far a setup is from it."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation import Result
from ..evaluation._metrics import DISTRACTED
from ._objectives import is_right, mean_answer

LOST = 5.0
"""Points of PS that may be lost."""

HELD = 95.0
"""The ES that an edit has to have, percent."""

REGAINED = 0.5
"""The share of what the plain edit lost that is to be regained."""

WON_BACK = ("relation", DISTRACTED + "neighbourhood")
"""The metrics that are to come back at least half-way from the plain edit to the unedited model."""


def margin(tried: Sequence[Result], plain: Sequence[Result]) -> float:
    """How far a setup is beyond the targets, judged by the target that it meets worst.

    The unedited model answers every question right, since others are left out.

    Args:
        tried: the results of the setup.
        plain: those of the plain edit on the same records.

    Returns:
        1 where nothing is lost at all, 0 where the worst target is just met, less than 0 where it
        is missed.
    """
    made = _percent(tried, "efficacy")
    assert made is not None
    found = [(made - HELD) / (100 - HELD)]
    for kind in WON_BACK:
        before, now = _percent(plain, kind), _percent(tried, kind)
        if before is None or now is None:
            continue
        if before < 100:
            found.append(((now - before) / (100 - before) - REGAINED) / (1 - REGAINED))
        else:
            found.append(_still_there(before, now))
    before, now = _percent(plain, "paraphrase"), _percent(tried, "paraphrase")
    if before is not None and now is not None:
        found.append(_still_there(before, now))
    return min(found)


def _still_there(before: float, now: float) -> float:
    """Of what the plain edit has: 1 where nothing is lost, 0 where as much as may be."""
    return min(1.0, 1 - (before - now) / LOST)


def _percent(results: Sequence[Result], kind: str) -> float | None:
    share = mean_answer(results, kind, is_right)
    return None if share is None else 100 * share
