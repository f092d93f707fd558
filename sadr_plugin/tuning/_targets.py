"""The targets of a tuning, and the distance of a setup from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..evaluation import Result
from ..evaluation._metrics import DISTRACTED
from ._objectives import Asked, is_right, mean_answer, questions

LOST = 5.0
"""The largest allowed loss of PS, NS and DRS compared with the plain edit, in points.

It is also that of RS and DNS, if the plain edit lost nothing there.
"""

HELD = 95.0
"""The ES that an edit needs, in percent."""

REGAINED = 0.5
"""The share of the plain edit's loss that the settings have to regain."""

WON_BACK = ("relation", DISTRACTED + "neighbourhood")
"""The metrics in which the settings have to regain that share."""

KEPT = ("paraphrase", "neighbourhood", DISTRACTED + "relation")
"""The metrics in which the settings may not lose more than `LOST`."""


@dataclass(frozen=True)
class Baselines:
    """What setups are compared with, on some records.

    Attributes:
        unedited: the results of the unedited model. It may answer some questions wrong.
        plain: the results of the plain edit, in the same order.
    """

    unedited: Sequence[Result]
    plain: Sequence[Result]

    @cached_property
    def asked(self) -> Asked:
        """The number of questions, by record and metric."""
        return questions(self.unedited)

    def __add__(self, other: Baselines) -> Baselines:
        return Baselines([*self.unedited, *other.unedited], [*self.plain, *other.plain])


def target(kind: str, unedited: float, plain: float) -> float:
    """Return the percentage that settings have to reach in a metric.

    Args:
        kind: the metric, of `WON_BACK` or `KEPT`.
        unedited: the percentage of the unedited model.
        plain: the percentage of the plain edit.
    """
    if kind in WON_BACK and plain < unedited:
        return plain + REGAINED * (unedited - plain)
    return plain - LOST


def margin(tried: Sequence[Result], baselines: Baselines) -> float:
    """Return how far a setup is beyond the targets. The target with the worst result decides.

    Args:
        tried: the results of the setup.
        baselines: the results of the unedited model and of the plain edit on the same records.

    Returns:
        1 if nothing is lost. 0 if the worst target is just met. Less than 0 if it is missed.
    """

    def percent(results: Sequence[Result], kind: str) -> float | None:
        share = mean_answer(results, kind, is_right, baselines.asked)
        return None if share is None else 100 * share

    made = percent(tried, "efficacy")
    assert made is not None
    found = [(made - HELD) / (100 - HELD)]
    for kind in (*WON_BACK, *KEPT):
        unedited = percent(baselines.unedited, kind)
        plain, now = percent(baselines.plain, kind), percent(tried, kind)
        if unedited is None or plain is None or now is None:
            continue
        goal = target(kind, unedited, plain)
        if goal > plain:
            found.append(_won_back(unedited, plain, goal, now))
        else:
            found.append(_still_there(goal, now))
    return min(found)


def _won_back(unedited: float, plain: float, goal: float, now: float) -> float:
    """Return 1 if all that the plain edit lost is regained, and 0 if just `REGAINED` of it is.

    If the plain edit lost little, a missed target counts less: it may be a single answer.
    """
    if now >= goal:
        return min(1.0, (now - goal) / (unedited - goal))
    return (now - goal) / max(goal - plain, LOST)


def _still_there(goal: float, now: float) -> float:
    """Return 1 if nothing is lost compared with the plain edit, and 0 if `LOST` points are."""
    return min(1.0, (now - goal) / LOST)
