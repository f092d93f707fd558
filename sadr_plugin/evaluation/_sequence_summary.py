"""The summary of edits that accumulate: every arm at every checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ._results import UNEDITED, Checkpoint, Result
from ._significance import Estimate, estimate
from ._summary import ArmSummary, summarise

OF_THE_EDIT = ("steps", "seconds", "reached", "stopped")
"""What a result holds of the making of its edit."""

UNRELATED = ("fact", "relation")
"""The kinds of questions about records that are never edited."""


@dataclass(frozen=True)
class Model:
    """An arm's model at a checkpoint, apart from the questions about edited records.

    Attributes:
        unrelated: the share of right answers about subjects that are never edited, in percent, by
            kind. None without such questions.
        perplexity: the perplexity of the text; None without one.
        change: the mean over the edited weights of the norm of the change, as a share of the
            weight's norm.
        changes: this share for each edited weight, by name.
    """

    unrelated: dict[str, Estimate | None]
    perplexity: float | None
    change: float
    changes: dict[str, float]


@dataclass(frozen=True)
class Point:
    """A checkpoint that every arm has reached.

    Attributes:
        edits: the number of edits.
        arms: the arms, the unedited one first, over all records edited so far. p values are
            corrected for the number of tests at this checkpoint, not for other checkpoints.
        models: more data about each arm's model.
    """

    edits: int
    arms: list[ArmSummary]
    models: dict[str, Model]


@dataclass(frozen=True)
class SequenceSummary:
    """A run of edits that accumulate.

    Attributes:
        points: the checkpoints, ascending.
        made: the arms over all records, each asked about directly after its edit. EasyEdit's
            ``sequential_edit`` measures the same.
    """

    points: list[Point]
    made: list[ArmSummary]


def summarise_sequence(
    results: Sequence[Result],
    checkpoints: Sequence[Checkpoint],
    order: Sequence[str] | None = None,
) -> SequenceSummary:
    """Summarise a run's results and checkpoints, up to the last checkpoint that every arm reached.

    Args:
        results: the results of the run.
        checkpoints: the checkpoints of the run.
        order: the order of the arms. None takes the order of their checkpoints.
    """
    found = dict.fromkeys(c.arm for c in checkpoints if c.arm != UNEDITED)
    arms = [arm for arm in order or found if arm in found]
    unedited = [result for result in results if result.arm == UNEDITED]
    made = {(r.arm, r.record): r for r in results if r.when == "made"}
    model_at = {(c.arm, c.edits): c for c in checkpoints}
    reached = [{c.edits for c in checkpoints if c.arm == arm} for arm in arms]
    points = []
    for edits in sorted(set.intersection(*reached)) if reached else []:
        seen = [
            # These were recorded when the edit was made.
            replace(r, **{name: getattr(made[r.arm, r.record], name) for name in OF_THE_EDIT})
            for r in results
            if r.when == "checkpoint" and r.edits == edits
        ]
        bad = [r for r in made.values() if r.error is not None and r.edits <= edits]
        about = {r.record for r in (*seen, *bad)}
        models = {
            arm: _model(model_at[arm, 0 if arm == UNEDITED else edits])
            for arm in (UNEDITED, *arms)
            if (arm, 0 if arm == UNEDITED else edits) in model_at
        }
        first = [r for r in unedited if r.record in about]
        points.append(Point(edits, summarise([*first, *seen, *bad], arms), models))
    return SequenceSummary(points, summarise([*unedited, *made.values()], arms) if made else [])


def _model(checkpoint: Checkpoint) -> Model:
    changes = checkpoint.changes.values()
    return Model(
        unrelated={kind: estimate(checkpoint.unrelated, kind) for kind in UNRELATED},
        perplexity=checkpoint.perplexity,
        change=sum(changes) / len(changes) if changes else 0.0,
        changes=dict(checkpoint.changes),
    )
