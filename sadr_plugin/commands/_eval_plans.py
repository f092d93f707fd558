"""What ``sadr eval`` does in each of its modes: what it runs, shows and writes."""

from __future__ import annotations

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, EvaluationError
from ..evaluation import (
    BUILTIN,
    Arm,
    Editor,
    Engine,
    EvaluationRun,
    Evaluator,
    Item,
    Record,
    Result,
    SequenceEvaluator,
    SequenceRun,
    SingleEvaluator,
    checkpoints,
    load,
    sequence_table,
    summarise,
    summarise_sequence,
    table,
    write,
    write_sequence,
)
from ..evaluation._sequence_tables import sequence_rows
from ..evaluation._tables import summary_rows
from ..pages import Page, facts, metrics, save, sequence
from ..texts import python_manual, read_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


@dataclass(frozen=True)
class Settings:
    """The settings that all modes have: the arms, the records and what is measured."""

    arms: Sequence[Arm]
    records: Sequence[Record]
    seed: int
    fluency: bool
    skip_bad: bool


class Plan(ABC):
    """An evaluation in one mode.

    Attributes:
        about: what the numbers depend on, besides the settings that all modes have.
        evaluator: a function that makes the evaluator from an editor. It may run on a worker.
        total: the number of items in the whole run.
    """

    about: Mapping[str, Any]
    evaluator: Callable[[Editor], Evaluator]
    total: int

    @abstractmethod
    def start(self, engine: Engine, out: Path) -> None:
        """Load the part of the run that is already done."""

    @property
    @abstractmethod
    def results(self) -> Sequence[Result]:
        """The results so far."""

    @property
    @abstractmethod
    def done(self) -> int:
        """The number of items so far."""

    @abstractmethod
    def run(self, on_item: Callable[[Item], None]) -> None:
        """Run the rest of the items."""

    @abstractmethod
    def table(self, title: str) -> RenderableType | None:
        """Return the table of the results so far, or None if there is nothing new to show."""

    @abstractmethod
    def write(self, out: Path, about: Mapping[str, Any], title: str, console: Console) -> None:
        """Write the summaries, and show them."""

    @abstractmethod
    def page(self, title: str, about: Mapping[str, Any]) -> Page:
        """Return the results as a page."""


class SinglePlan(Plan):
    """The mode in which each edit is undone before the next.

    Args:
        settings: the settings that all modes have.
        retry_failed: see `EvaluationRun`.
    """

    def __init__(self, settings: Settings, retry_failed: bool) -> None:
        self.about = {}
        self.evaluator = partial(
            SingleEvaluator,
            arms=settings.arms,
            seed=settings.seed,
            fluency=settings.fluency,
            skip_bad=settings.skip_bad,
        )
        self.total = len(settings.records) * (len(settings.arms) + 1)
        self._arms = [arm.name for arm in settings.arms]
        self._settings = settings
        self._retry_failed = retry_failed

    def start(self, engine: Engine, out: Path) -> None:
        """See `Plan.start`."""
        self._run = EvaluationRun(engine, out / "results.jsonl", self._retry_failed)

    @property
    def results(self) -> Sequence[Result]:
        """See `Plan.results`."""
        return self._run.results

    @property
    def done(self) -> int:
        """See `Plan.done`."""
        return len(self._run.results)

    def run(self, on_item: Callable[[Item], None]) -> None:
        """See `Plan.run`."""
        self._run.run(self._settings.records, on_item)

    def table(self, title: str) -> RenderableType | None:
        """See `Plan.table`. The table changes after each finished record."""
        if len(self.results) % (len(self._settings.arms) + 1):
            return None
        return table(summarise(self.results, self._arms), title)

    def write(self, out: Path, about: Mapping[str, Any], title: str, console: Console) -> None:
        """See `Plan.write`."""
        summaries = write(out, self.results, about, self._arms)
        console.print(table(summaries, title))
        with _without_picture(console):
            save(metrics(summaries, title), out / "summary.svg")

    def page(self, title: str, about: Mapping[str, Any]) -> Page:
        """See `Plan.page`."""
        summaries = summarise(self.results, self._arms)
        page = _new_page(title, about)
        page.heading("What was measured")
        page.chart("metrics", metrics(summaries, "Right answers, with 95 % intervals"))
        page.table(summary_rows(summaries))
        _add_settings(page, about)
        return page


class SequencePlan(Plan):
    """The modes in which edits add up.

    Args:
        settings: the settings that all modes have.
        batch_size: the number of edits in one call of the editor.
        wanted: ``--checkpoints``.
        text: ``--text``.

    Raises:
        ConfigError: an option is not valid.
    """

    def __init__(self, settings: Settings, batch_size: int, wanted: str, text: str) -> None:
        count = len(settings.records)
        self._arms = [arm.name for arm in settings.arms]
        self._checkpoints = checkpoints(_numbers(wanted), count, batch_size)
        edited = {record.subject.casefold() for record in settings.records}
        unrelated = [r for r in load(BUILTIN).records if r.subject.casefold() not in edited]
        content = (
            "\n\n".join(python_manual("--text"))
            if text == "python"
            else read_text(Path(text), "--text")
        )
        self.about = {
            "batch_size": batch_size,
            "checkpoints": self._checkpoints,
            "unrelated": [record.key for record in unrelated],
            "text_sha256": hashlib.sha256(content.encode()).hexdigest(),
        }
        self.evaluator = partial(
            SequenceEvaluator,
            arms=settings.arms,
            records=settings.records,
            batch_size=batch_size,
            unrelated=unrelated,
            text=content,
            seed=settings.seed,
            fluency=settings.fluency,
            skip_bad=settings.skip_bad,
        )
        own = count + sum(self._checkpoints) + len(self._checkpoints)
        self.total = count + 1 + len(settings.arms) * own

    def start(self, engine: Engine, out: Path) -> None:
        """See `Plan.start`."""
        self._run = SequenceRun(engine, out, self._checkpoints)
        self._shown = len(self._run.checkpoints)

    @property
    def results(self) -> Sequence[Result]:
        """See `Plan.results`."""
        return self._run.results

    @property
    def done(self) -> int:
        """See `Plan.done`."""
        return len(self._run.results) + len(self._run.checkpoints)

    def run(self, on_item: Callable[[Item], None]) -> None:
        """See `Plan.run`."""
        self._run.run(on_item)

    def table(self, title: str) -> RenderableType | None:
        """See `Plan.table`. The table changes after each checkpoint."""
        if len(self._run.checkpoints) == self._shown:
            return None
        self._shown = len(self._run.checkpoints)
        return sequence_table(
            summarise_sequence(self.results, self._run.checkpoints, self._arms), title
        )

    def write(self, out: Path, about: Mapping[str, Any], title: str, console: Console) -> None:
        """See `Plan.write`."""
        summary = write_sequence(out, self.results, self._run.checkpoints, about, self._arms)
        console.print(sequence_table(summary, title))
        with _without_picture(console):
            save(sequence(summary, title), out / "summary.svg")

    def page(self, title: str, about: Mapping[str, Any]) -> Page:
        """See `Plan.page`."""
        summary = summarise_sequence(self.results, self._run.checkpoints, self._arms)
        page = _new_page(title, about)
        page.heading("Over the number of edits")
        page.chart("sequence", sequence(summary, "All edited so far, asked on the model as it is"))
        page.table(sequence_rows(summary, intervals=True))
        _add_settings(page, about)
        return page


def _new_page(title: str, about: Mapping[str, Any]) -> Page:
    """Return a new page about an evaluation."""
    return Page(title, f"Mode {about['mode']}, seed {about['seed']}.")


def _add_settings(page: Page, about: Mapping[str, Any]) -> None:
    """Add the settings that the numbers depend on to a page."""
    page.heading("Settings")
    page.table([["arm", "sadr"], *([a, json.dumps(s)] for a, s in about["arms"].items())])
    page.table(facts(about["hparams"]))
    page.table(facts({**about["versions"], "data": about["data"]}))


def _numbers(text: str) -> list[int] | None:
    if not text.strip():
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--checkpoints: expected numbers with commas, got {text!r}") from None


@contextlib.contextmanager
def _without_picture(console: Console) -> Iterator[None]:
    """Print the reason if the picture cannot be drawn."""
    try:
        yield
    except EvaluationError as error:
        console.print(f"no picture: {error}", markup=False)
