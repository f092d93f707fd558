"""What an evaluation asks of an editor, and what it gives it: records of edits with questions."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor, nn


@dataclass(frozen=True)
class Question:
    """A prompt with its right answer and the wrong answer it is compared with.

    Attributes:
        prompt: the text before the answer.
        right: the right answer.
        wrong: the wrong answer.
    """

    prompt: str
    right: str
    wrong: str


@dataclass(frozen=True)
class Record:
    """One edit, and the questions to ask before and after it.

    Attributes:
        key: the name of the record: its number in the file's own numbering, or its place in the
            file.
        subject: the subject of the edited fact.
        template: the fact up to its object, with ``{}`` for the subject.
        target_new: the new object.
        target_true: the true object.
        paraphrases: the edited fact in other words. The right answer is the new object.
        aliases: the edited fact with another name for the subject. The right answer is the new
            object.
        neighbours: facts about other subjects. The wrong answer is the new object.
        relations: other facts about the subject. The wrong answer is the new object.
        consequences: facts that follow from the edited fact. The wrong answer is the true object.
        reminders: the edited fact as one that has more answers than the new object, which the
            prompt names. The wrong answer is the new object.
        openings: beginnings of texts, for fluency.
    """

    key: str
    subject: str
    template: str
    target_new: str
    target_true: str
    paraphrases: tuple[Question, ...] = ()
    aliases: tuple[Question, ...] = ()
    neighbours: tuple[Question, ...] = ()
    relations: tuple[Question, ...] = ()
    consequences: tuple[Question, ...] = ()
    reminders: tuple[Question, ...] = ()
    openings: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The fact up to its object."""
        return self.template.replace("{}", self.subject)

    @property
    def statement(self) -> str:
        """The edited fact as a sentence. It is put before a prompt to distract the model."""
        return f"{self.prompt} {self.target_new}."


QUESTIONS = ("paraphrases", "aliases", "neighbours", "relations", "consequences", "reminders")
"""The attributes of a record that hold questions."""


def sample(records: Sequence[Record], limit: int | None, seed: int) -> list[Record]:
    """Return ``limit`` records, chosen at random by ``seed``, in the order of the file.

    Returns:
        All records if ``limit`` is None or larger than their number.
    """
    if limit is None or limit >= len(records):
        return list(records)
    chosen = random.Random(seed).sample(range(len(records)), limit)
    return [records[index] for index in sorted(chosen)]


def weighable(record: Record) -> Record:
    """Return the record without questions whose right answer equals the wrong one.

    No model can answer such a question.

    Raises:
        ValueError: the new object is the true one.
    """
    if _same(record.target_new, record.target_true):
        raise ValueError(f"target_new: {record.target_new!r} is the true object as well")
    asked: dict[str, Any] = {
        kind: tuple(q for q in getattr(record, kind) if not _same(q.right, q.wrong))
        for kind in QUESTIONS
    }
    return replace(record, **asked)


def _same(one: str, other: str) -> bool:
    return one.strip() == other.strip()


@dataclass(frozen=True)
class Dimension:
    """The values of a setting in a search.

    Attributes:
        low: the smallest value.
        high: the largest value.
        log: whether the search uses a logarithmic scale.
        choices: the only values, instead of a range.
    """

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: Sequence[Any] | None = None


class Editor(ABC):
    """A toolkit's editor with a model, as an evaluation uses it.

    Attributes:
        model: the model. It is edited in place.
        tokenizer: its tokenizer.
        layer: the layer after which attention can drift.
        layer_template: the path of the layers, such as ``"model.layers.{}"``.
        weights: the names of the parameters that edits change, as in ``named_parameters``. The
            evaluation stores and restores them.
        takes_batches: whether `edit` takes more than one record.
    """

    model: nn.Module
    tokenizer: Any
    layer: int
    layer_template: str
    weights: Sequence[str]
    takes_batches: bool = True

    @abstractmethod
    def edit(self, records: Sequence[Record], sadr: Mapping[str, Any] | None) -> None:
        """Write the records' edits into the model, in one call of the toolkit.

        Args:
            records: the records to edit. Exactly one if ``takes_batches`` is False.
            sadr: SADR's settings, as under ``sadr:`` in an hparams file. None for no SADR.
        """

    # Only ``sadr tune`` uses the following methods.

    def search_space(self) -> Mapping[str, Dimension]:
        """Return the editor's own settings that may be searched, by name. Default: none."""
        return {}

    def prepare(  # noqa: B027
        self, layers: Sequence[int], corpus: Sequence[str], progress: Progress
    ) -> None:
        """Prepare what edits at these layers need, such as layer statistics of a text.

        Args:
            layers: the last edited layer of each setting to prepare.
            corpus: the text, as ``--corpus`` names it.
            progress: shows the progress.
        """

    def settings(self) -> dict[str, Any]:
        """Return the current values of the settings in `search_space`."""
        return {}

    def remarks(self) -> list[str]:
        """Return warnings about the editor's current settings. Default: none."""
        return []

    def as_hparams(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Turn settings of `search_space` into keys and values of an hparams file."""
        return dict(settings)

    def configured(self, settings: Mapping[str, Any]) -> Editor:
        """Return an editor of the same model with other settings from `search_space`.

        Raises:
            ConfigError: the editor has no such settings.
        """
        if settings:
            raise ConfigError(
                f"{type(self).__name__} has no settings {', '.join(settings)}; to have settings, "
                "an editor needs its own method configured"
            )
        return self

    # Only editors that remember earlier edits, such as AlphaEdit, need the following methods.

    def reset(self) -> None:  # noqa: B027
        """Forget earlier edits. It is called when the unedited weights are in place."""

    def state(self) -> dict[str, Tensor]:
        """Return what the editor remembers of earlier edits, to continue in another process."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restore what `state` returned."""
