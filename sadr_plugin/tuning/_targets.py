"""The targets of a tuning, and the distance of a setup from them."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation import Result
from ..evaluation._metrics import DISTRACTED
from ._objectives import is_right, mean_answer

LOST = 5.0
"""The largest allowed loss of PS, in points."""

HELD = 95.0
"""The ES that an edit needs, in percent."""

REGAINED = 0.5
"""The share of the plain edit's loss that the settings have to regain."""

WON_BACK = ("relation", DISTRACTED + "neighbourhood")
"""The metrics in which the settings have to regain that share."""


def margin(tried: Sequence[Result], plain: Sequence[Result]) -> float:
    """Return how far a setup is beyond the targets. The target with the worst result decides.

    The unedited model answers every question right, because other questions were left out.

    Args:
        tried: the results of the setup.
        plain: the results of the plain edit on the same records.

    Returns:
        1 if nothing is lost. 0 if the worst target is just met. Less than 0 if it is missed.
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
    """Compare with the plain edit: 1 if nothing is lost, and 0 if the loss is `LOST` points."""
    return min(1.0, 1 - (before - now) / LOST)


def _percent(results: Sequence[Result], kind: str) -> float | None:
    share = mean_answer(results, kind, is_right)
    return None if share is None else 100 * share
