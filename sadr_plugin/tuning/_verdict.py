"""The verdict: the results of the best settings on records that they were not chosen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import DataError
from ..evaluation import UNEDITED, ArmSummary, Result, summarise
from ..evaluation._metrics import DISTRACTED, SHORT
from ._targets import HELD, LOST, REGAINED, WON_BACK

PLAIN, CONTROL, TUNED = "plain", "stop alone", "tuned"


@dataclass(frozen=True)
class Verdict:
    """The results of the best settings on the unseen records.

    Attributes:
        summaries: the unedited model, the plain edit, the stop alone, and the tuned settings.
        regained: by metric, the share of the plain edit's loss that the settings regain, 1 for all
            of it. None if the plain edit lost nothing.
        lost: the PS of the plain edit minus the PS of the settings, in points. None without
            paraphrases.
        shortcomings: the targets that were missed, in words.
    """

    summaries: list[ArmSummary]
    regained: dict[str, float | None]
    lost: float | None
    shortcomings: list[str]

    @property
    def helps(self) -> bool:
        """Whether the settings regain part of a metric, with a corrected p below 0.05."""
        tested = self._arm(TUNED).corrected.get(PLAIN, {})
        return any(
            share is not None and share > 0 and p is not None and p < 0.05
            for task, share in self.regained.items()
            for p in (tested.get(task),)
        )

    def _arm(self, name: str) -> ArmSummary:
        return next(summary for summary in self.summaries if summary.arm == name)

    def sentence(self) -> str:
        """Return the verdict in words."""
        short = "; ".join(self.shortcomings)
        if self.helps:
            return (
                f"These settings help, but {short}."
                if short
                else "These settings help, and they reach all targets."
            )
        if short:
            return f"No settings were found that help by more than chance: {short}."
        return (
            "These settings reach all targets on the unseen records, but this may be chance: there "
            "are too few records, or the plain edit breaks too little."
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
            f"no unseen record could be edited in every arm: {why} (judged-*.jsonl in --out has "
            "all errors)"
        )
    means = {
        arm: {task: found.mean for task, found in summary.accuracy.items() if found is not None}
        for arm, summary in of_arm.items()
    }
    unedited, plain, tuned = (means[arm] for arm in (UNEDITED, PLAIN, TUNED))
    regained = {
        task: _share(unedited[task], plain[task], tuned[task])
        for task in ("relation", DISTRACTED + "neighbourhood", "neighbourhood")
        if task in tuned
    }
    lost = plain["paraphrase"] - tuned["paraphrase"] if "paraphrase" in tuned else None
    failed = of_arm[TUNED].failed
    shortcomings = [] if not failed else [f"{failed} of the edits fail"]
    shortcomings += _shortcomings(plain, tuned, regained, lost)
    return Verdict(summaries, regained, lost, shortcomings)


def _share(unedited: float, plain: float, tuned: float) -> float | None:
    """Return the share of the plain edit's loss that is regained, or None if it lost nothing."""
    return (tuned - plain) / (unedited - plain) if unedited > plain else None


def _shortcomings(
    plain: Mapping[str, float],
    tuned: Mapping[str, float],
    regained: Mapping[str, float | None],
    lost: float | None,
) -> list[str]:
    """Return the targets that were missed, in words."""
    found = []
    if tuned["efficacy"] < HELD:
        found.append(f"ES is {tuned['efficacy']:.1f}, below {HELD:g}")
    for task, share in regained.items():
        if share is None and tuned[task] < plain[task]:
            found.append(f"{SHORT[task]} falls from {plain[task]:.1f} to {tuned[task]:.1f}")
        elif share is not None and share < REGAINED and task in WON_BACK:
            found.append(f"{max(share, 0):.0%} of the lost {SHORT[task]} is regained, not half")
    if lost is not None and lost > LOST:
        found.append(f"PS is {lost:.1f} points lower")
    return found
