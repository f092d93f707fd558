"""The edit that a session runs, as the terms of its loss see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from pluggy import HookRelay
from torch import Tensor

from ..adapter import Edit, EditPoint, Prompt
from ..errors import AttachmentError
from ..replay._replay import Replay
from ..replay._vectors import Vectors
from ..reuse._reuse import Reuse
from ..terms import Rows, RunningEdit


class Running(RunningEdit):
    """See `RunningEdit`."""

    rows: Rows
    labels: Tensor | None
    selected: Tensor

    def __init__(
        self,
        point: EditPoint,
        edit: Edit,
        hooks: HookRelay,
        vectors: Vectors,
        reuse: Callable[[], Reuse] | None,
    ) -> None:
        self.edit = edit
        self.editor = point.editor
        self.gamma = point.gamma
        self.hooks = hooks
        self.step = 0
        self._vectors = vectors
        self._reuse = reuse

    if not TYPE_CHECKING:  # a type checker would then accept any name

        def __getattr__(self, name: str) -> Any:
            """Say why what a step sets is not there."""
            if name in Running.__annotations__:
                raise AttachmentError(
                    f"running.{name} is there only while a step is computed; read it in the "
                    "value() of a term"
                )
            raise AttributeError(f"a RunningEdit has no attribute {name!r}")

    @property
    def vector_is_zero(self) -> bool:
        """Whether the loop's vector is still zero."""
        return self.step == 0 and self.edit.zero_start

    def prompt(self) -> Prompt:
        """See `RunningEdit.prompt`."""
        return min(self.edit.rewriting_prompts(), key=lambda prompt: len(prompt.text))

    def replay(self, prompts: Sequence[Prompt], read_from: Sequence[int] | None = None) -> Replay:
        """See `RunningEdit.replay`."""
        self._vectors.expect()
        return Replay(self.edit, self._vectors, self._reuse, prompts, read_from)

    def unedited(self) -> AbstractContextManager[None]:
        """Run the model without the loop's vectors inside a ``with`` block."""
        return self._vectors.absent()
