"""The results of ``sadr drift``: on the terminal, as data and as a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..drift import AttentionMap, Correlation, Head, Variant, correlations, restored, transferred
from ..errors import EvaluationError
from ..evaluation import SHORT, TASKS, UNEDITED, Record, Result, summarise, table
from ..pages import Page, heads, losses, metrics, steps
from .terminal import show_rows

if TYPE_CHECKING:
    from rich.console import Console

    from ..events import Report

SHOWN_HEADS = 10

QUESTION = ("", "prompt", "right / wrong")


@dataclass(frozen=True)
class DriftOfEdit:
    """The results for one edit.

    Attributes:
        record: the edit and its questions.
        results: the results of all arms.
        arms: the edited arms.
        variants: the parts of the attention that were exchanged.
        maps: attention at each prompt.
        reports: the steps of the edit, by arm, if they were recorded.
    """

    record: Record
    results: Sequence[Result]
    arms: Sequence[str]
    variants: Sequence[Variant]
    maps: Sequence[AttentionMap]
    reports: Mapping[str, Report]

    def show(self, console: Console) -> None:
        """Show the results on the terminal."""
        _show_heads(console, {arm: _heads(self.results, arm) for arm in self.arms})
        for arm in self.arms:
            for variant in self.variants:
                shown = [UNEDITED, arm, restored(arm, variant), transferred(arm, variant)]
                title = f"{arm}{variant.suffix}: probability of the right / of the wrong answer"
                show_rows(console, title, [*self._rows(shown)], (*QUESTION, *shown))

    def as_data(self) -> dict[str, Any]:
        """Return the results as data for JSON."""
        return {
            "edit": {"prompt": self.record.prompt, "target": self.record.target_new},
            "questions": [
                {
                    "metric": task,
                    "prompt": question.prompt,
                    "right": question.right,
                    "wrong": question.wrong,
                    "log_probabilities": {
                        r.arm: dict(zip(("right", "wrong"), r.scores[task][number], strict=True))
                        for r in self.results
                    },
                }
                for task, ask in TASKS.items()
                for number, question in enumerate(ask(self.record))
            ],
            "heads": {arm: [asdict(h) for h in _heads(self.results, arm)] for arm in self.arms},
            "attention": [
                {
                    "metric": found.kind,
                    "prompt": found.prompt,
                    "tokens": found.tokens,
                    "subject": found.subject,
                    "layers": found.layers,
                    "rows": {arm: rows.tolist() for arm, rows in found.rows.items()},
                }
                for found in self.maps
            ],
        }

    def page(self) -> Page:
        """Return the results as a page."""
        record = self.record
        page = Page(
            f"{record.prompt} → {record.target_new}",
            "Where this edit moves attention, and how that changes the answers.",
        )
        page.heading("The edit")
        arms = [UNEDITED, *self.arms]
        page.table(
            [[*QUESTION, *arms], *self._rows(arms)],
            "Probability of the right answer / of the wrong answer.",
            self._marks(arms),
        )
        page.heading("Attention, head by head")
        page.text(
            "Each square is a head. Its colour shows how far the head's attention row at the "
            "prompt's last token has moved: KL(before ‖ after), in nats. The row of one head is "
            "shown below. To choose another head, point at its square or use the arrow keys."
        )
        page.attention(self.maps, self.arms)
        page.heading("Does attention change the answers?")
        for variant in self.variants:
            exchanged = [
                name(arm, variant) for arm in self.arms for name in (restored, transferred)
            ]
            page.table(
                [[*QUESTION, *exchanged], *self._rows(exchanged)],
                "The same questions, asked with the unedited model's attention in the edited "
                "model, and with the edited model's attention in the unedited model.",
                self._marks(exchanged),
            )
        if self.reports:
            page.heading("Step by step")
            page.chart("steps", steps(self.reports))
        return page

    def _rows(self, arms: Sequence[str]) -> Iterator[list[str]]:
        """Yield the questions with each arm's probabilities.

        For questions about the edit itself, the right answer is the new object.
        """
        of_arm = {result.arm: result for result in self.results}
        for task, ask in TASKS.items():
            for number, question in enumerate(ask(self.record)):
                pairs = [of_arm[arm].scores[task][number] for arm in arms]
                cells = [f"{math.exp(right):.3f} / {math.exp(wrong):.3f}" for right, wrong in pairs]
                prompt = question.prompt.replace(
                    self.record.statement, f"… {self.record.target_new}."
                )
                yield [SHORT[task], prompt, f"{question.right} / {question.wrong}", *cells]

    def _marks(self, arms: Sequence[str]) -> dict[tuple[int, int], str]:
        """Return the cells of `_rows` in which the answer is wrong."""
        of_arm = {result.arm: result for result in self.results}
        asked = [(task, n) for task, ask in TASKS.items() for n in range(len(ask(self.record)))]
        return {
            (row, 3 + place): "bad"
            for row, (task, number) in enumerate(asked)
            for place, arm in enumerate(arms)
            if of_arm[arm].scores[task][number][0] <= of_arm[arm].scores[task][number][1]
        }


@dataclass(frozen=True)
class DriftOfRecords:
    """The results for many edits.

    Attributes:
        results: the results of all arms.
        arms: all arms except the unedited one.
    """

    results: Sequence[Result]
    arms: Sequence[str]

    @property
    def edited_arms(self) -> list[str]:
        """The arms whose attention was measured."""
        return list(dict.fromkeys(r.arm for r in self.results if r.heads))

    def show(self, console: Console) -> None:
        """Show the results on the terminal."""
        _show_heads(console, {arm: _heads(self.results, arm) for arm in self.edited_arms})
        console.print(table(summarise(self.results, self.arms), "attention exchanged"))
        try:
            rows = [_correlation_row(found) for found in correlations(self.results)]
        except EvaluationError as error:
            console.print(f"no correlations: {error}", markup=False)
            return
        show_rows(
            console, "correlation of drift and the loss of the right answer", rows, CORRELATED
        )

    def as_data(self) -> dict[str, Any]:
        """Return the results as data for JSON. The correlations are None without SciPy."""
        try:
            related = [asdict(found) for found in correlations(self.results)]
        except EvaluationError:  # `show` says why
            related = None
        return {
            "arms": [asdict(summary) for summary in summarise(self.results, self.arms)],
            "heads": {
                arm: [asdict(h) for h in _heads(self.results, arm)] for arm in self.edited_arms
            },
            "correlations": related,
        }

    def page(self) -> Page:
        """Return the results as a page."""
        summaries = summarise(self.results, self.arms)
        page = Page("Attention drift", f"Over {summaries[0].records} records.")
        page.heading("Does attention change the answers?")
        page.chart("metrics", metrics(summaries, "Attention exchanged"))
        page.heading("Which heads drift")
        found = {arm: _heads(self.results, arm) for arm in self.edited_arms}
        largest = max((h[0].divergence for h in found.values() if h), default=1.0)
        for arm, of_arm in found.items():
            page.chart(f"heads-{arm}", heads(of_arm, arm, largest))
        page.heading("Are answers lost where attention has drifted?")
        related = correlations(self.results)
        page.table([list(CORRELATED), *map(_correlation_row, related)])
        for one in related:
            page.chart(f"losses-{one.arm}-{one.kind}".replace(" ", "-"), losses(one))
        return page


CORRELATED = ("arm", "questions about", "number", "Pearson", "Spearman")


def _correlation_row(found: Correlation) -> list[str]:
    cells = [
        f"{c.value:.2f}" + ("" if c.low is None else f" ({c.low:.2f} to {c.high:.2f})")
        for c in (found.pearson, found.spearman)
    ]
    return [found.arm, found.kind, str(found.questions), *cells]


def _heads(results: Sequence[Result], arm: str) -> list[Head]:
    """Return the heads' means over all results of an arm, the most drifted heads first."""
    sums: dict[tuple[int, int], list[list[float]]] = {}
    for result in results:
        if result.arm == arm:
            for layer, head, *values in result.heads or []:
                sums.setdefault((int(layer), int(head)), []).append(values)
    means = {key: [sum(c) / len(c) for c in zip(*rows, strict=True)] for key, rows in sums.items()}
    found = [Head(*key, *values) for key, values in means.items()]
    return sorted(found, key=lambda head: -head.divergence)


def _show_heads(console: Console, found: Mapping[str, Sequence[Head]]) -> None:
    for arm, of_arm in found.items():
        rows = [
            [str(h.layer), str(h.head), f"{h.divergence:.3f}", f"{h.before:.3f}", f"{h.now:.3f}"]
            for h in of_arm[:SHOWN_HEADS]
        ]
        header = ("layer", "head", "moved by, nats", "to the subject before", "after")
        show_rows(console, f"{arm}: the heads that drifted most", rows, header)
