"""Watches the items of an engine, for whoever writes them into a file."""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ChangedModelError
from ._results import Result
from .engines import Engine, Item


class ItemWatch:
    """Warns of edits that did nothing, and puts results of a changed model aside.

    An edit did nothing if SADR should have acted on it and did not, or if no weight changed.

    Args:
        file: the file into which the items are written. None for no file, or for one that gets only
            results of a model that was checked.
        by_arm: whether there is a warning for each arm, and not only a single one.
    """

    def __init__(self, file: Path | None, by_arm: bool = True) -> None:
        self._file = file
        self._by_arm = by_arm
        self._warned: set[tuple[str, str]] = set()

    @contextlib.contextmanager
    def items(self, engine: Engine, queue: deque[Any]) -> Iterator[Iterator[Item]]:
        """Yield the items of `Engine.items` for a ``with`` block.

        The engine checks the model however the block ends. If the model has changed, the results in
        the file are not reliable. The file is renamed, so that no later run uses them.

        Raises:
            ChangedModelError: with the file's new name.
        """
        try:
            with contextlib.closing(engine.items(queue)) as items:
                yield map(self._noticed, items)
        except ChangedModelError as error:
            if self._file is None or not self._file.exists():
                raise
            kept = self._file.replace(self._file.with_name(f"untrusted-{self._file.name}"))
            raise ChangedModelError(f"{error}. What was measured is in {kept}") from error

    def _noticed(self, item: Item) -> Item:
        if isinstance(item, Result):
            if item.acted is False and self._is_first("acted", item):
                warnings.warn(
                    f"SADR: in the arm {item.arm}, SADR did not act on the edit of record "
                    f"{item.record}; enable SADR, and see that the adapter's Editor.edit sets "
                    "`sadr` on the hparams and calls the declared function through its module",
                    stacklevel=3,
                )
            if item.changed is False and self._is_first("changed", item):
                warnings.warn(
                    f"SADR: in the arm {item.arm}, the edit of record {item.record} changed none "
                    "of the weights that Editor.weights names; see that Editor.edit writes them, "
                    "into Editor.model",
                    stacklevel=3,
                )
        return item

    def _is_first(self, what: str, result: Result) -> bool:
        """Whether there was no such warning before."""
        key = what, result.arm if self._by_arm else ""
        if key in self._warned:
            return False
        self._warned.add(key)
        return True
