"""A run over edits that accumulate: the remaining legs, the engine and the files.

The results of a leg are written to disk together with its checkpoint. A run that was killed
continues from the last checkpoint of each arm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from torch import Tensor

from ..errors import ConfigError, DataError
from ._files import append_lines, drop_half_line, read_checkpoints, read_results, replacing, rewrite
from ._results import UNEDITED, Checkpoint, Result
from ._sequence import Leg
from ._watch import ItemWatch
from .engines import Engine, Item

CHECKPOINTS = (1, 10, 25, 50, 100, 250, 500, 1000)
"""The numbers of edits with a checkpoint. There is always one at the end of a run."""


def checkpoints(wanted: Sequence[int] | None, records: int, batch_size: int) -> list[int]:
    """Return the numbers of edits with a checkpoint, including the end.

    Args:
        wanted: numbers of edits. None takes those of `CHECKPOINTS` at which a batch ends.
        records: the number of records to edit.
        batch_size: the number of records in one call.

    Raises:
        ConfigError: no batch ends after a wanted number of edits.
    """
    asked = CHECKPOINTS if wanted is None else wanted
    fitting = [number for number in asked if 0 < number < records and number % batch_size == 0]
    wrong = [number for number in asked if number not in (*fitting, records)]
    if wanted is not None and wrong:
        raise ConfigError(
            f"checkpoints: {wrong[0]} is not possible with {records} records in batches of "
            f"{batch_size}; give {records}, or multiples of {batch_size} below it"
        )
    return sorted({*fitting, records})


class SequenceRun:
    """A run over edits that accumulate.

    Args:
        engine: does the evaluation.
        folder: the folder of the files. Files in it are kept.
        checkpoints: the numbers of edits with a checkpoint, ascending. The last one is the end.
    """

    def __init__(self, engine: Engine, folder: Path, checkpoints: Sequence[int]) -> None:
        self._engine = engine
        self._folder = folder
        self._wanted = list(checkpoints)
        self._results_file = folder / "results.jsonl"
        self._checkpoints_file = folder / "checkpoints.jsonl"
        for file in (self._results_file, self._checkpoints_file):
            drop_half_line(file)
        self.checkpoints = read_checkpoints(self._checkpoints_file)
        reached = {checkpoint.arm: checkpoint.edits for checkpoint in self.checkpoints}
        found = read_results(self._results_file)
        self.results = [r for r in found if r.edits <= reached.get(r.arm, -1)]
        if len(self.results) < len(found):  # a leg did not reach its checkpoint
            rewrite(self._results_file, self.results)
        self._legs_results: dict[str, list[Result]] = {}

    def run(self, on_item: Callable[[Item], None] = lambda item: None) -> list[Result]:
        """Run the remaining legs, and return all results, old and new."""
        queue: deque[Leg] = deque(filter(None, map(self._next, (UNEDITED, *self._engine.arms))))
        # The files get a leg's results only after its check, so they stay reliable.
        with ItemWatch(None).items(self._engine, queue) as items:
            for item in items:
                if isinstance(item, Checkpoint):
                    self._write(item)
                    following = self._next(item.arm, item.saved)
                    if following is not None:
                        queue.append(following)
                else:
                    self._legs_results.setdefault(item.arm, []).append(item)
                on_item(item)
        return self.results

    def _next(self, arm: str, saved: dict[str, Tensor] | None = None) -> Leg | None:
        """Return the leg after an arm's last checkpoint; None at its end."""
        reached = [c.edits for c in self.checkpoints if c.arm == arm]
        if arm == UNEDITED:
            return None if reached else Leg(arm, 0, 0)
        start = max(reached, default=0)
        ahead = [number for number in self._wanted if number > start]
        if not ahead:
            return None
        if saved is None:
            saved = self._load(arm, start) if start else {}
        bad = frozenset(r.record for r in self.results if r.arm == arm and r.error is not None)
        return Leg(arm, start, ahead[0], saved, bad)

    def _write(self, checkpoint: Checkpoint) -> None:
        """Write the saved tensors, then the results, then the line that marks them as complete."""
        if checkpoint.saved:
            self._save(checkpoint)
        results = self._legs_results.pop(checkpoint.arm, [])
        append_lines(self._results_file, results)
        append_lines(self._checkpoints_file, [checkpoint])
        self.results += results
        for earlier in self.checkpoints:
            if earlier.arm == checkpoint.arm:
                self._saved(earlier.arm, earlier.edits).unlink(missing_ok=True)
        self.checkpoints.append(replace(checkpoint, saved={}))

    def _save(self, checkpoint: Checkpoint) -> None:
        from safetensors.torch import save_file

        contiguous = {name: tensor.contiguous() for name, tensor in checkpoint.saved.items()}
        with replacing(self._saved(checkpoint.arm, checkpoint.edits)) as part:
            save_file(contiguous, part)

    def _load(self, arm: str, edits: int) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = self._saved(arm, edits)
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{file}: cannot be read, so arm {arm} cannot go on after {edits} edits: {error}"
            ) from None

    def _saved(self, arm: str, edits: int) -> Path:
        return self._folder / f"{quote(arm, safe='+')}-{edits}.safetensors"
