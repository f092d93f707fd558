"""What edits that add up come to: every arm at every checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ._results import UNEDITED, Checkpoint, Result
from ._significance import Estimate, estimate
from ._summary import ArmSummary, summarise

UNRELATED = ("fact", "relation")
"""What is asked of records that are never edited."""


@dataclass(frozen=True)
class Model:
    """An arm's model at a checkpoint, beside what is asked about edited records.

    Attributes:
        unrelated: right answers about subjects that are never edited, percent, by kind; None
            without such questions.
        perplexity: of the text, None without one.
        change: the mean over edited weights of the norm of the change as a share of the weight's.
    """

    unrelated: dict[str, Estimate | None]
    perplexity: float | None
    change: float


@dataclass(frozen=True)
class Point:
    """A checkpoint that every arm has reached.

    Attributes:
        edits: how many edits had been made.
        arms: the arms, unedited first, over all records edited so far.
        models: by arm, what else its model shows.
    """

    edits: int
    arms: list[ArmSummary]
    models: dict[str, Model]


@dataclass(frozen=True)
class SequenceSummary:
    """A run of edits that add up.

    Attributes:
        points: the checkpoints, ascending.
        made: the arms over all records, each asked about directly after its edit was made;
            what EasyEdit's ``sequential_edit`` measures.
    """

    points: list[Point]
    made: list[ArmSummary]


def summarise_sequence(
    results: Sequence[Result],
    checkpoints: Sequence[Checkpoint],
    order: Sequence[str] | None = None,
) -> SequenceSummary:
    """What a run's results and checkpoints say, as far as every arm has come.

    The arms come as in `summarise`, in the ``order`` given or that of their checkpoints.
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
            # How it was made is known from when it was made.
            replace(r, steps=made[r.arm, r.record].steps, seconds=made[r.arm, r.record].seconds)
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
    )
