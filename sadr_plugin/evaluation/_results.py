"""What an evaluation writes down: a line of JSON for each record and arm."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError

UNEDITED = "unedited"
"""The arm without an edit."""


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
        fluency: mean n-gram entropy of generated texts in bits, None without openings.
        steps: optimisation steps of the edit.
        seconds: wall time of the edit.
        error: why there is no edit; then there are no scores.
    """

    record: str
    arm: str
    scores: dict[str, list[tuple[float, float]]]
    rewrite_acc: float | None
    drift: float | None
    fluency: float | None
    steps: int
    seconds: float
    error: str | None = None

    @classmethod
    def from_line(cls, line: bytes) -> Result:
        """Read a line of a result file.

        Raises `ValueError`, `TypeError`, `KeyError` or `AttributeError` for anything else.
        """
        data = json.loads(line)
        data["scores"] = {
            task: [(float(right), float(wrong)) for right, wrong in pairs]
            for task, pairs in data["scores"].items()
        }
        return cls(**data)


def read_results(file: Path) -> list[Result]:
    """The results in a file; a last line that was cut off is taken away from it.

    Raises `DataError` for any other line that is no result.
    """
    if not file.exists():
        return []
    content = file.read_bytes()
    whole, newline, cut = content.rpartition(b"\n")
    if cut:
        os.truncate(file, len(whole) + len(newline))
    results = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            results.append(Result.from_line(line))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{file}: line {number} is no result: {error}") from None
    return results
