"""What an evaluation writes down: a line of JSON for each record and arm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

UNEDITED = "unedited"
"""The arm without an edit."""

Pairs = list[tuple[float, float]]
"""For each question (right, wrong), mean log-probabilities in nats."""


@dataclass(frozen=True)
class Arm:
    """A way of editing; ``sadr`` is None for the toolkit alone."""

    name: str
    sadr: Mapping[str, Any] | None


@dataclass(frozen=True)
class Result:
    """What one record showed in one arm.

    Attributes:
        record: the record's key.
        arm: the arm's name.
        scores: by metric, for each question (right, wrong), mean log-probabilities in nats.
        rewrite_acc: the share of the new object's tokens that are the model's first choice after
            the prompt, 0 to 1; what EasyEdit calls so.
        drift: the penalty at γ = 1 on the record's prompt; 0 without an edit.
        fluency: mean n-gram entropy of generated texts in bits, None without openings or with a
            model that gives no finite probabilities.
        steps: optimisation steps of the edit; of edits made in one call, their mean.
        seconds: wall time of the edit; of edits made in one call, their mean.
        error: why there is no edit; then there are no scores.
        edits: how many edits had been made when the record was asked about, its own among them.
        when: "single": its own was the only one; "made": directly after its own; "checkpoint":
            with all the others so far.
        heads: of each head in a layer that can drift (layer, head, KL(before ‖ now) of its row
            in nats, its attention to the subject before, and now), at the prediction position of
            the edit's prompt. What ``sadr drift`` measures, as is the next.
        moved: by metric, for each question, the divergence of its attention, summed over layers
            and heads, in nats; None where its prompt does not name the subject.
        reached: the probability of the target in the loop's last step, 0 to 1, averaged as for
            ``stop_at``, where SADR was on; what ``sadr tune`` looks at.
    """

    record: str
    arm: str
    scores: dict[str, Pairs]
    rewrite_acc: float | None
    drift: float | None
    fluency: float | None
    steps: float = 0.0
    seconds: float = 0.0
    error: str | None = None
    edits: int = 1
    when: Literal["single", "made", "checkpoint"] = "single"
    heads: list[list[float]] | None = None
    moved: dict[str, list[float | None]] | None = None
    reached: float | None = None

    @classmethod
    def from_line(cls, line: bytes) -> Result:
        """Read a line of a result file.

        Raises `ValueError`, `TypeError`, `KeyError` or `AttributeError` for anything else.
        """
        return cls.from_data(json.loads(line))

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Result:
        """Make one of its fields as JSON has them; raises as `from_line` does."""
        return cls(**{**data, "scores": _pairs(data["scores"])})


@dataclass(frozen=True)
class Checkpoint:
    """An arm's model after a number of edits.

    Attributes:
        arm: the arm's name.
        edits: how many edits had been made, 0 in the unedited model.
        unrelated: what facts about subjects that are never edited show: for each record of
            these, by kind, pairs as in `Result.scores`.
        perplexity: of a text, None without one.
        changes: by edited weight, the Frobenius norm of its change as a share of its own.
        saved: what the arm goes on from: the edited weights, and what the editor remembers.
            In a file of its own.
    """

    arm: str
    edits: int
    unrelated: list[dict[str, Pairs]]
    perplexity: float | None
    changes: dict[str, float]
    saved: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_line(cls, line: bytes) -> Checkpoint:
        """Read a line of a file of checkpoints; raises as `Result.from_line` does."""
        data = json.loads(line)
        data["unrelated"] = [_pairs(scores) for scores in data["unrelated"]]
        return cls(**data)


def _pairs(scores: Any) -> dict[str, Pairs]:
    return {
        task: [(float(right), float(wrong)) for right, wrong in pairs]
        for task, pairs in scores.items()
    }
