"""The results of an evaluation: a line of JSON for each record and arm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

UNEDITED = "unedited"
"""The name of the arm without an edit."""

Pairs = list[tuple[float, float]]
"""(right, wrong) of each question: mean log-probabilities in nats."""


@dataclass(frozen=True)
class Arm:
    """A way of editing.

    Attributes:
        name: the arm's name.
        sadr: SADR's settings, as under ``sadr:`` in an hparams file. None for the toolkit alone.
    """

    name: str
    sadr: Mapping[str, Any] | None


@dataclass(frozen=True)
class Result:
    """The result of one record in one arm.

    Attributes:
        record: the record's key.
        arm: the arm's name.
        scores: for each metric, (right, wrong) of each question: mean log-probabilities in nats.
        rewrite_acc: the share of the new object's tokens that are the model's first choice after
            the prompt, 0 to 1. EasyEdit uses the same name.
        drift: the penalty at γ = 1 on the record's prompt. 0 without an edit.
        fluency: the mean n-gram entropy of generated texts, in bits. None without openings, or if
            the model gives no finite probabilities.
        steps: the optimisation steps of the edit. For edits made in one call, their mean.
        seconds: the wall time of the edit. For edits made in one call, their mean.
        error: why there is no edit. There are no scores then.
        edits: the number of edits in the model when the record was asked about, including its own.
        when: "single": the record's edit was the only one; "made": directly after its edit;
            "checkpoint": together with all edits so far.
        heads: for each head in a layer that can drift: layer, head, KL(before ‖ now) of its row in
            nats, its attention to the subject before, and now. All are taken at the prediction
            position of the edit's prompt. ``sadr drift`` measures ``heads`` and ``moved``.
        moved: for each metric, the divergence of each question's attention, summed over layers and
            heads, in nats. None if the prompt does not name the subject.
        reached: the probability of the target in the loop's last step, 0 to 1, averaged as for
            ``stop_at``, for edits with SADR. None if it is not known for this edit alone.
        stopped: whether this probability reached ``stop_at``. None without ``stop_at``.
        acted: whether SADR acted on the edit, for edits with SADR.
        changed: whether the edit changed any of the weights that the editor names. For edits made
            in one call, whether they changed any.
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
    stopped: bool | None = None
    acted: bool | None = None
    changed: bool | None = None

    @classmethod
    def from_line(cls, line: bytes) -> Result:
        """Read a line of a file of results.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: the line is not a result.
        """
        return cls.from_data(json.loads(line))

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Result:
        """Make a result from its fields as decoded JSON. It raises the errors of `from_line`."""
        return cls(**{**data, "scores": _pairs(data["scores"])})


@dataclass(frozen=True)
class Checkpoint:
    """An arm's model after a number of edits.

    Attributes:
        arm: the arm's name.
        edits: the number of edits; 0 for the unedited model.
        unrelated: scores of facts about subjects that are never edited: for each such record, by
            kind, pairs as in `Result.scores`.
        perplexity: the perplexity of a text; None without one.
        changes: for each edited weight, the Frobenius norm of its change as a share of its norm.
        saved: the tensors from which the arm continues: the edited weights, and what the editor
            remembers. They are stored in a separate file.
    """

    arm: str
    edits: int
    unrelated: list[dict[str, Pairs]]
    perplexity: float | None
    changes: dict[str, float]
    saved: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_line(cls, line: bytes) -> Checkpoint:
        """Read a line of a file of checkpoints. It raises the errors of `Result.from_line`."""
        data = json.loads(line)
        data["unrelated"] = [_pairs(scores) for scores in data["unrelated"]]
        return cls(**data)


def _pairs(scores: Any) -> dict[str, Pairs]:
    return {
        task: [(float(right), float(wrong)) for right, wrong in pairs]
        for task, pairs in scores.items()
    }
