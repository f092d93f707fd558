"""The results of ``sadr tune``: on the terminal, as data, as a page and as an hparams file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, EvaluationError
from ..evaluation import SHORT, Editor, table
from ..evaluation._tables import cell, number, summary_rows
from ..pages import Page, front, metrics
from ..tuning import CONTROL, PLAIN, Tried, Tuning, Verdict
from .terminal import show_rows

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class TuningFindings:
    """The results of a tuning.

    Attributes:
        name: the editor's name.
        tuning: the results.
        editor: the editor. It knows how its settings are written in its files.
    """

    name: str
    tuning: Tuning
    editor: Editor

    def show(self, console: Console) -> None:
        """Show the results on the terminal."""
        for text in self._known():
            console.print(text, markup=False)
        for finding in self.tuning.findings:
            mark = "good" if finding.good else "look"
            console.print(f"{mark}: {finding.text}", markup=False)
        console.print(self._searched(), markup=False)
        if self.tuning.verdict is not None:
            title = f"{self.name}, unseen records"
            console.print(table(self.tuning.verdict.summaries, title))
            header, *rows = _changes(self.tuning.verdict)
            title = "what the settings change, in points, with 95 % intervals"
            show_rows(console, title, rows, header)
            for text in self._verdict():
                console.print(text, markup=False)
        if self.tuning.causal is not None:
            console.print(table(self.tuning.causal, "causal test: the damage that attention does"))
        if self.tuning.best is not None:
            console.print(self._settings(self.tuning.best), markup=False)

    def as_data(self) -> dict[str, Any]:
        """Return the results as data for JSON."""
        tuning, verdict = self.tuning, self.tuning.verdict
        return {
            "known": {**asdict(tuning.known), "records": [r.key for r in tuning.known.records]},
            "findings": [asdict(finding) for finding in tuning.findings],
            "plain": asdict(tuning.plain),
            "tried": [
                {
                    "number": tried.number,
                    "hparams": self._hparams(tried),
                    "given_up": tried.given_up,
                    "best_of_all": tried in tuning.front,
                    **asdict(tried.objectives()),
                }
                for tried in tuning.tried
            ],
            "best": tuning.best and self._hparams(tuning.best),
            "verdict": verdict
            and {
                "sentence": verdict.sentence(),
                "shortcomings": verdict.shortcomings,
                "regained": verdict.regained,
                "lost": verdict.lost,
                "changes": {
                    arm: {task: asdict(change) for task, change in changes.items()}
                    for arm, changes in verdict.changes.items()
                },
                "untested": verdict.untested,
                "tested_before": tuning.again,
                "arms": [asdict(summary) for summary in verdict.summaries],
            },
            "causal": tuning.causal and [asdict(summary) for summary in tuning.causal],
        }

    def page(self) -> Page:
        """Return the results as a page."""
        tuning = self.tuning
        page = Page(f"{self.name}, tuned", self._searched())
        if tuning.verdict is not None:
            page.heading("Results on unseen records")
            for text in self._verdict():
                page.text(text)
            page.chart("judged", metrics(tuning.verdict.summaries, "Unseen records"))
            page.table(summary_rows(tuning.verdict.summaries))
            page.text("What the settings change, in points, with 95 % intervals and corrected p:")
            page.table(_changes(tuning.verdict))
        if tuning.best is not None:
            page.heading("The settings")
            page.code(self._settings(tuning.best))
        page.heading("The check-up")
        page.table([["", "finding"], *(["✓" if f.good else "!", f.text] for f in tuning.findings)])
        for text in self._known():
            page.text(text)
        page.heading("What was tried")
        rows = [self._row(tried) for tried in tuning.tried if not tried.given_up]
        rows.append(
            {
                "specificity": tuning.plain.specificity,
                "generality": tuning.plain.generality,
                "kind": PLAIN,
                "best": False,
                "label": "the plain edit: " + _objectives(tuning.plain),
            }
        )
        page.chart(
            "front",
            front(rows, "generality", "specificity", "What was tried"),
            "Each point is one trial, on the records of the search. The line joins the trials that "
            "no other trial beats in both objectives.",
        )
        if tuning.causal is not None:
            page.heading("How much of the damage does attention do?")
            page.text(
                "These are the same questions, asked with the unedited model's attention in the "
                "edited model. Attention broke the answers that become right again, so SADR could "
                "keep them. A restriction of attention cannot keep the other answers."
            )
            page.table(summary_rows(tuning.causal))
        return page

    def write(self, source: Path, target: Path) -> None:
        """Write the source hparams file with the best settings in it. Comments are kept."""
        assert self.tuning.best is not None
        keys = self._hparams(self.tuning.best)
        if source.suffix == ".json":
            content = {**json.loads(source.read_text(encoding="utf-8")), **keys}
            target.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            return
        from ruamel.yaml import YAML

        yaml = YAML()
        yaml.representer.add_representer(float, _represent_float)
        content = yaml.load(source.read_text(encoding="utf-8"))
        content.update(keys)
        with target.open("w", encoding="utf-8") as stream:
            yaml.dump(content, stream)

    def _hparams(self, tried: Tried) -> dict[str, Any]:
        """Return what a trial changes in the file."""
        return {
            **self.editor.as_hparams(tried.setup.settings),
            "sadr": dict(tried.setup.sadr or {}),
        }

    def _settings(self, tried: Tried) -> str:
        lines = []
        for name, value in self._hparams(tried).items():
            lines += _yaml(name, value)
        return "\n".join(lines)

    def _known(self) -> Iterator[str]:
        known = self.tuning.known
        yield (
            f"The model knows {len(known.records)} of the records, each with at least one answer "
            f"to keep. {known.unknown} records were left out because the model does not know their "
            f"fact, and {known.nothing_to_keep} because it knows no answer to keep. "
            f"{known.dropped} questions that the unedited model answers wrong were left out."
        )

    def _searched(self) -> str:
        tuning = self.tuning
        given_up = sum(tried.given_up for tried in tuning.tried)
        text = f"{len(tuning.tried)} settings were tried, {given_up} of them ended early. "
        if not tuning.tried:
            return "No setting was tried to the end in this time; give a longer --budget."
        if tuning.best is None:
            return text + "The edits did not succeed often enough with any of them."
        come = _objectives(tuning.best.objectives())
        return text + f"Plain edit: {_objectives(tuning.plain)}. Best settings: {come}."

    def _verdict(self) -> Iterator[str]:
        verdict = self.tuning.verdict
        assert verdict is not None
        yield verdict.sentence()
        if self.tuning.again:
            yield (
                f"This is no fair test any more: {self.tuning.again} other settings were tested on "
                "the same records before. Tune on other records."
            )
        shares = verdict.regained.items()
        parts = [f"{SHORT[task]} {share:+.0%}" for task, share in shares if share is not None]
        if parts:
            yield f"The settings regain, of what the plain edit lost: {', '.join(parts)}."

    def _row(self, tried: Tried) -> Mapping[str, Any]:
        come = tried.objectives()
        return {
            "specificity": come.specificity,
            "generality": come.generality,
            "kind": "with keep" if (tried.setup.sadr or {}).get("keep") else "SADR alone",
            "best": tried in self.tuning.front,
            "label": f"{tried.name}: {_objectives(come)}; {json.dumps(self._hparams(tried))}",
        }


def _changes(verdict: Verdict) -> list[list[str]]:
    """Return the rows of the table of changes, header first."""
    rows = [["", "against the plain edit", "p", "against the stop alone", "p"]]
    for task in verdict.changes[PLAIN]:
        row = [SHORT[task]]
        for arm in (PLAIN, CONTROL):
            p = verdict.p_values(arm).get(task)
            shown = "<0.001" if p is not None and p < 0.001 else number(p, 3)
            row += [cell(verdict.changes[arm][task], "{} ({} to {})"), shown]
        rows.append(row)
    return rows


def expect_writable(target: Path, source: Path) -> None:
    """Check in advance that a tuned hparams file can be written.

    Raises:
        ConfigError: its suffix differs from the source's, or its folder does not exist.
        EvaluationError: ruamel.yaml is not installed.
    """
    if target.suffix != source.suffix:
        raise ConfigError(f"--write: {target} has to end in {source.suffix}, like the source file")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"--write: there is no folder {target.absolute().parent}")
    if source.suffix != ".json":
        try:
            import ruamel.yaml  # noqa: F401
        except ImportError:
            raise EvaluationError(
                "ruamel.yaml is not installed; pip install 'sadr-plugin[tune]'"
            ) from None


def _objectives(come: Any) -> str:
    return (
        f"specificity {come.specificity:.3f}, generality {come.generality:.3f} "
        f"({come.reworded:.0%} of the paraphrases right), efficacy {come.efficacy:.2f}"
    )


def _yaml(name: str, value: Any, indent: str = "") -> list[str]:
    """Return a setting as one or more lines of YAML."""
    if isinstance(value, Mapping):
        inner = [line for key, of in value.items() for line in _yaml(key, of, indent + "  ")]
        return [f"{indent}{name}:", *inner]
    return [f"{indent}{name}: {_number(value) if isinstance(value, float) else json.dumps(value)}"]


def _number(value: float) -> str:
    """Return a number as YAML 1.1 reads it: without a point, ``5e-05`` would be a text."""
    digits, exponent, power = repr(value).partition("e")
    return digits + (".0" if exponent and "." not in digits else "") + exponent + power


def _represent_float(representer: Any, value: float) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:float", _number(value))
