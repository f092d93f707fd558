"""The verdict: the results of the best settings on records that they were not chosen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import DataError
from ..evaluation import UNEDITED, ArmSummary, Estimate, Result, difference, summarise
from ..evaluation._metrics import DISTRACTED, SHORT, Scores
from ..evaluation._significance import compared
from ..evaluation._summary import scored_in_all
from ._targets import HELD, KEPT, WON_BACK, target
from ._trials import PLAIN

CONTROL, TUNED = "stop alone", "tuned"

COMPARED = ("paraphrase", "neighbourhood", "relation", DISTRACTED + "neighbourhood")
"""The metrics in which the settings are compared with the plain edit and the stop alone."""


@dataclass(frozen=True)
class Verdict:
    """The results of the best settings on the unseen records.

    Attributes:
        summaries: the unedited model, the plain edit, the stop alone, and the tuned settings.
        regained: by metric, the share of the plain edit's loss that the settings regain, 1 for all
            of it. None if the plain edit lost nothing.
        better: by metric, the number of records that the settings answer better than the plain
            edit, minus the number of those that they answer worse.
        changes: by arm (`PLAIN`, `CONTROL`) and metric, what the settings change compared with that
            arm, in points, with the 95 % interval.
        shortcomings: the targets that were missed, in words.
        untested: the targets about which the records ask nothing, by metric.
    """

    summaries: list[ArmSummary]
    regained: dict[str, float | None]
    better: dict[str, int]
    changes: dict[str, dict[str, Estimate]]
    shortcomings: list[str]
    untested: list[str]

    @property
    def lost(self) -> float | None:
        """The PS that the settings lose compared with the plain edit, in points."""
        found = self.changes[PLAIN].get("paraphrase")
        return None if found is None else 0 - found.mean

    @property
    def helps(self) -> bool:
        """Whether the settings regain part of a metric, with a corrected p below 0.05.

        The share is a mean over questions, and p comes from a two-sided test over records. So both
        have to be in favour of the settings.
        """
        tested = self.p_values(PLAIN)
        return any(
            share is not None and share > 0 and self.better[task] > 0 and p is not None and p < 0.05
            for task, share in self.regained.items()
            for p in (tested.get(task),)
        )

    def p_values(self, arm: str) -> dict[str, float | None]:
        """Return the corrected p values of the settings against an arm, by metric."""
        tuned = next(summary for summary in self.summaries if summary.arm == TUNED)
        return tuned.corrected.get(arm, {})

    def sentence(self) -> str:
        """Return the verdict in words."""
        short = "; ".join(self.shortcomings)
        if self.helps and short:
            return f"These settings help, but {short}."
        if short:
            return f"No settings were found that help by more than chance: {short}."
        untested = ", ".join(SHORT[task] for task in self.untested)
        reach = f"reach all targets but {untested}, about which nothing was asked"
        reach = reach if untested else "reach all targets"
        if self.helps:
            return f"These settings help, and they {reach}."
        return (
            f"These settings {reach} on the unseen records, but this may be chance: there are too "
            "few records, or the plain edit breaks too little."
        )


def judge(results: Sequence[Result]) -> Verdict:
    """Return the verdict from the results on the unseen records.

    Args:
        results: the results, with the arms of `Verdict.summaries`.

    Raises:
        DataError: no record could be edited in all of these arms.
    """
    summaries = summarise(results, [PLAIN, CONTROL, TUNED])
    of_arm = {summary.arm: summary for summary in summaries}
    if not of_arm[TUNED].records:
        why = next((r.error for r in results if r.error is not None), "there are no results")
        raise DataError(
            f"no unseen record could be edited in every arm: {why} (judged-*.jsonl has all errors)"
        )
    means = {
        arm: {task: found.mean for task, found in summary.accuracy.items() if found is not None}
        for arm, summary in of_arm.items()
    }
    unedited, plain, tuned = (means[arm] for arm in (UNEDITED, PLAIN, TUNED))
    regained = {
        task: _share(unedited[task], plain[task], tuned[task])
        for task in (*WON_BACK, "neighbourhood")
        if task in tuned
    }
    together = scored_in_all(results, [PLAIN, CONTROL, TUNED])
    scores = {arm: [result.scores for result in own] for arm, own in together.items()}
    gaps = {task: compared(scores[TUNED], scores[PLAIN], task) for task in regained}
    better = {task: more - fewer for task, (more, fewer) in gaps.items()}
    changes = {arm: _changes(scores, arm) for arm in (PLAIN, CONTROL)}
    failed = of_arm[TUNED].failed
    shortcomings = [] if not failed else [f"{failed} of the edits fail{'s' if failed == 1 else ''}"]
    shortcomings += _shortcomings(unedited, plain, tuned, regained)
    untested = [task for task in (*WON_BACK, "paraphrase") if task not in tuned]
    return Verdict(summaries, regained, better, changes, shortcomings, untested)


def _share(unedited: float, plain: float, tuned: float) -> float | None:
    """Return the share of the plain edit's loss that is regained, or None if it lost nothing."""
    return (tuned - plain) / (unedited - plain) if unedited > plain else None


def _changes(scores: Mapping[str, Sequence[Scores]], arm: str) -> dict[str, Estimate]:
    """Return what the settings change compared with an arm, by metric."""
    found = {task: difference(scores[TUNED], scores[arm], task) for task in COMPARED}
    return {task: estimate for task, estimate in found.items() if estimate is not None}


def _shortcomings(
    unedited: Mapping[str, float],
    plain: Mapping[str, float],
    tuned: Mapping[str, float],
    regained: Mapping[str, float | None],
) -> list[str]:
    """Return the targets that were missed, in words."""
    found = []
    if tuned["efficacy"] < HELD:
        found.append(f"ES is {tuned['efficacy']:.1f}, below {HELD:g}")
    for task in (*WON_BACK, *KEPT):
        if task not in tuned or tuned[task] >= target(task, unedited[task], plain[task]):
            continue
        share = regained.get(task)
        if share is None or tuned[task] < plain[task]:
            found.append(f"{SHORT[task]} falls from {plain[task]:.1f} to {tuned[task]:.1f}")
        else:
            found.append(f"{share:.0%} of the lost {SHORT[task]} is regained, not half")
    return found
