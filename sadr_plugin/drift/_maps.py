"""The change of attention in each layer and head, at a prompt's prediction position."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..adapter import Edit, Prompt
from ..evaluation import TASKS, UNEDITED, Editor, Record
from ..evaluation._subjects import find_subject
from ..method._probe import DriftProbe
from ..method.penalty import head_divergence

KINDS = ("efficacy", "relation", "distracting neighbourhood", "distracting relation")
"""The metrics whose prompts contain the subject, so attention to it can be read."""


@dataclass(frozen=True)
class AttentionMap:
    """The attention at one prompt's prediction position, before and after edits.

    Attributes:
        kind: the metric that asks the prompt, such as ``"relation"``.
        question: the index of the question among the record's questions of this kind.
        prompt: the text of the prompt.
        tokens: its tokens as text, up to the prediction position.
        subject: the index of the subject's token among them.
        layers: the indices of the layers.
        rows: [layers, heads, tokens] for each arm, including the unedited one.
    """

    kind: str
    question: int
    prompt: str
    tokens: tuple[str, ...]
    subject: int
    layers: tuple[int, ...]
    rows: dict[str, Tensor] = field(repr=False)

    def to_subject(self, arm: str) -> Tensor:
        """Return the attention that each head pays to the subject's token, [layers, heads]."""
        return self.rows[arm][..., self.subject]

    def divergence(self, arm: str) -> Tensor:
        """Return how far each head's row has moved, KL(before ‖ now) in nats, [layers, heads]."""
        before, now = self.rows[UNEDITED].unsqueeze(1), self.rows[arm].unsqueeze(1)
        return head_divergence(before, now).squeeze(1)


@dataclass(frozen=True)
class Head:
    """One head's drift, averaged over prompts.

    Attributes:
        layer: the index of its layer.
        head: its index in the layer.
        divergence: KL(before ‖ now) of its row, in nats.
        before: its attention to the subject's token in the unedited model.
        now: its attention to the subject's token in the edited model.
    """

    layer: int
    head: int
    divergence: float
    before: float
    now: float


def ranked(maps: Sequence[AttentionMap], arm: str) -> list[Head]:
    """Return all heads, sorted by their mean divergence over ``maps``, largest first."""
    divergence = torch.stack([found.divergence(arm) for found in maps]).mean(0)
    before = torch.stack([found.to_subject(UNEDITED) for found in maps]).mean(0)
    now = torch.stack([found.to_subject(arm) for found in maps]).mean(0)
    heads = [
        Head(layer, head, *(values[place, head].item() for values in (divergence, before, now)))
        for place, layer in enumerate(maps[0].layers)
        for head in range(divergence.shape[1])
    ]
    return sorted(heads, key=lambda head: -head.divergence)


class MapReader:
    """Reads the attention at the prompts of a record.

    Make it with the unedited model. Then call `read` once in each arm.

    Args:
        editor: gives the model. The layers after the first edited one are watched.
        record: the record. Prompts of all `KINDS` in its data are read.
        questions: the largest number of questions of each kind; None for all.

    Raises:
        PositionError: the subject's tokens cannot be found in a prompt.
    """

    def __init__(self, editor: Editor, record: Record, questions: int | None = None) -> None:
        own = Prompt.from_template(record.template, record.subject)
        self._asked = [(KINDS[0], 0, own)]
        for kind in KINDS[1:]:
            for number, question in enumerate(TASKS[kind](record)[:questions]):
                prompt = _split(question.prompt, record.subject)
                if prompt is not None:
                    self._asked.append((kind, number, prompt))
        self._probe = DriftProbe(
            Edit(
                editor.model,
                editor.tokenizer,
                [prompt for *_, prompt in self._asked],
                first_changed(editor),
                editor.layer_template,
            )
        )
        self._tokenizer = editor.tokenizer
        self._rows: dict[str, Tensor] = {UNEDITED: self._probe.before.cpu()}

    def read(self, arm: str) -> None:
        """Store the rows of the model as it is now under the name of an arm."""
        self._rows[arm] = self._probe.now().cpu()

    def maps(self) -> list[AttentionMap]:
        """Return one map for each prompt, the edit's own prompt first."""
        prediction, subject = self._probe.positions.prediction, self._probe.positions.subject
        found = []
        for number, (kind, question, prompt) in enumerate(self._asked):
            ids = self._tokenizer(prompt.text)["input_ids"]
            end = int(prediction[number]) + 1
            start = end - len(ids)
            tokens = tuple(self._tokenizer.decode([token]) for token in ids)
            rows = {arm: rows[:, number, :, start:end] for arm, rows in self._rows.items()}
            place = int(subject[number]) - start
            found.append(
                AttentionMap(kind, question, prompt.text, tokens, place, self._probe.layers, rows)
            )
        return found


def first_changed(editor: Editor) -> int:
    """Return the first layer that the editor changes, by the names of its weights.

    It can be lower than ``editor.layer``, the layer of the vector: MEMIT changes several layers,
    and finds its vector at the last of them.
    """
    before, after = map(re.escape, editor.layer_template.split("{}"))
    found = [re.match(rf"{before}(\d+){after}\.", f"{name}.") for name in editor.weights]
    return min([editor.layer, *(int(match[1]) for match in found if match)])


def _split(text: str, subject: str) -> Prompt | None:
    """Split a prompt at the subject's first occurrence; None if there is none."""
    try:
        start = find_subject(subject, text)
    except ValueError:
        return None
    return Prompt(text[:start], subject, text[start + len(subject) :])
