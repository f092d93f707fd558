"""Draws runs of `sadr tune`: tunings.py MODELS.svg SETTINGS.svg "ROME on …=FOLDER" …

The first picture has the final test of each run, one above the other. The second has the trials of
the first run: what each setting keeps, and what it costs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sadr_plugin.evaluation import Result, read_results
from sadr_plugin.pages import front, metrics, save, under_each_other
from sadr_plugin.tuning import PLAIN, Objectives, judge, objectives, questions

X, Y = "paraphrases and aliases (generality)", "other facts (specificity)"


def main(models: str, settings: str, *runs: str) -> None:
    named = [(name, Path(folder)) for name, _, folder in (run.partition("=") for run in runs)]
    charts = []
    for name, folder in named:
        (file,) = folder.glob("judged-[0-9]*.jsonl")
        summaries = judge(read_results(file)).summaries
        charts.append(metrics(summaries, f"{name}, {summaries[0].records} records"))
    save(under_each_other(charts), Path(models))
    name, folder = named[0]
    save(front(trials(folder), X, Y, f"{name}: settings that were tried"), Path(settings))


def trials(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each trial that edited every record, and one for the plain edit."""
    records = read_results(folder / "results.jsonl")
    plain = [result for result in records if result.arm == PLAIN]
    study = optuna.load_study(
        study_name="tune", storage=JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    )
    rows = [_row(PLAIN, objectives(plain, questions(plain)), best=False)]
    finished: list[tuple[str, Objectives]] = []
    for trial in study.trials:
        if not trial.user_attrs.get("given_up", True):
            results = [Result.from_data(dict(data)) for data in trial.user_attrs["results"]]
            kind = "with keep" if trial.params.get("keep") else "SADR alone"
            finished.append((kind, objectives(results, questions(plain))))
    for kind, found in finished:
        rows.append(_row(kind, found, best=not any(other.beats(found) for _, other in finished)))
    return rows


def _row(kind: str, found: Objectives, best: bool) -> dict[str, Any]:
    label = f"{kind}: specificity {found.specificity:.3f}, generality {found.generality:.3f}"
    return {X: found.generality, Y: found.specificity, "kind": kind, "best": best, "label": label}


if __name__ == "__main__":
    main(*sys.argv[1:])
